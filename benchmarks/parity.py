"""Compare converted models with their originals: logits and greedy text, one line a layout.

    python benchmarks/parity.py results/convert-parity.json [--smollm2 FILE.gguf] [--threads 1]

Small models of the real classes of transformers with random weights (20 prompts, 64 new tokens
each), and SmolLM2 where its GGUF file is given: there the original is transformers reading the same
file, and the prompts are questions.
"""

from __future__ import annotations

import argparse
import platform
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import transformers

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "convert"))

import originals
from safetensors.torch import load_file
from test_bart import KINDS as TRANSLATORS
from test_bart import SIZES as TRANSLATOR_SIZES
from test_bart import SPECIAL
from test_gemma import KINDS as GEMMAS
from test_gemma import SIZES as GEMMA_SIZES
from test_gpt2 import SIZES as GPT2_SIZES
from test_learned import KINDS as LEARNED
from test_learned import SIZES as LEARNED_SIZES
from test_llama import KINDS as LLAMAS
from test_llama import SIZES as LLAMA_SIZES
from test_parallel import KINDS as PARALLELS
from test_parallel import SIZES as PARALLEL_SIZES
from test_t5 import KINDS as T5S
from test_t5 import SIZES as T5_SIZES
from test_t5 import SPECIAL as T5_SPECIAL

import multistride.hf  # noqa: F401  (its import makes model directories known to transformers)
from multistride.convert.run import convert
from multistride.files import write_json
from multistride.model.directory import load_config
from multistride.model.weights import load_model
from multistride.version import __version__

PROMPTS, NEW_TOKENS = 20, 64
QUESTIONS = [
    "What is gravity?",
    "Name three fruits.",
    "Write a haiku about rain.",
    "Who wrote Hamlet?",
    "Explain what a prime number is.",
    "What is the capital of France?",
    "How do plants make food?",
    "Give me a recipe for pancakes.",
    "What is 17 plus 25?",
    "Translate 'good morning' into Spanish.",
    "Why is the sky blue?",
    "List the planets of the solar system.",
    "What does DNA stand for?",
    "Tell me a short story about a fox.",
    "What is the difference between a frog and a toad?",
    "How can I sleep better?",
    "What is a noun?",
    "Describe the colour red to someone who cannot see.",
    "Which animals lay eggs?",
    "What should I pack for a trip to the mountains?",
]


def main() -> None:
    """Compare every layout and write the result file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("output", type=Path)
    parser.add_argument("--smollm2", type=Path, help="GGUF file of SmolLM2-135M-Instruct")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    rows = []
    with tempfile.TemporaryDirectory() as place:
        causal = (
            (LLAMAS, LLAMA_SIZES),
            (GEMMAS, GEMMA_SIZES),
            (PARALLELS, PARALLEL_SIZES),
            (LEARNED, LEARNED_SIZES),
        )
        for kinds, sizes in causal:
            for name, (model, config, changes) in kinds.items():
                rows.append(small_causal(name, model, config, changes, sizes, Path(place) / name))
        model, config = transformers.GPT2LMHeadModel, transformers.GPT2Config
        changes = {"n_positions": 128}
        rows.append(small_causal("gpt2", model, config, changes, GPT2_SIZES, Path(place) / "gpt2"))
        for name, (model, config, changes, template) in TRANSLATORS.items():
            sizes = {**TRANSLATOR_SIZES, "max_position_embeddings": 128}
            rows.append(
                small_translator(name, model, config, changes, template, sizes, Path(place) / name)
            )
        for name, (model, config, changes) in T5S.items():
            t5 = (model, config, changes, "$A </s>", T5_SIZES)
            rows.append(small_translator(name, *t5, Path(place) / name, T5_SPECIAL))
        if arguments.smollm2:
            rows.append(smollm2(arguments.smollm2, Path(place) / "smollm2"))
    settings = {
        "prompts": PROMPTS,
        "new_tokens": NEW_TOKENS,
        "threads": arguments.threads,
        "precision": "float32",
        "multistride": __version__,
        "transformers": transformers.__version__,
        "torch": torch.__version__,
        "processor": platform.processor() or platform.machine(),
    }
    write_json(arguments.output, {"settings": settings, "layouts": rows})


def small_causal(
    name: str, model: Any, config: Any, changes: dict[str, Any], sizes: Any, place: Path
) -> dict[str, Any]:
    """Return a small random causal model."""
    special = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
    size = originals.small_tokenizer(place / "theirs", **special)
    theirs = originals.randomised(model(config(vocab_size=size, **{**sizes, **changes})))
    theirs.save_pretrained(place / "theirs")
    ours, _ = originals.converted_model(place / "theirs", place / "ours")
    rows = originals.sequences(size, PROMPTS)
    return line(
        name, theirs, originals.compare_causal(theirs, ours, size, rows, NEW_TOKENS), place / "ours"
    )


def small_translator(
    name: str,
    model: Any,
    config: Any,
    changes: dict[str, Any],
    template: str,
    sizes: dict[str, Any],
    place: Path,
    special: dict[str, str] = SPECIAL,
) -> dict[str, Any]:
    """Return a small random encoder-decoder with positions for the longest text requested."""
    size = originals.small_tokenizer(place / "theirs", template, **special)
    theirs = originals.randomised(model(config(vocab_size=size, **{**sizes, **changes})))
    if hasattr(theirs, "final_logits_bias"):
        theirs.final_logits_bias.normal_()
    theirs.generation_config.forced_eos_token_id = None
    theirs.save_pretrained(place / "theirs")
    ours, _ = originals.converted_model(place / "theirs", place / "ours")
    rows = originals.sequences(size, PROMPTS)
    return line(
        name,
        theirs,
        originals.compare_translators(theirs, ours, size, rows, NEW_TOKENS),
        place / "ours",
    )


def smollm2(file: Path, place: Path) -> dict[str, Any]:
    """Return SmolLM2, asked questions by its chat template."""
    began = time.perf_counter()
    convert(str(file), place)
    seconds = time.perf_counter() - began
    ours, vocabulary = load_model(place)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(
        str(file.parent), gguf_file=file.name, dtype=torch.float32
    ).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(place)
    texts = [
        tokenizer.apply_chat_template(
            [{"role": "user", "content": question}], tokenize=False, add_generation_prompt=True
        )
        for question in QUESTIONS[:PROMPTS]
    ]
    rows = vocabulary.encode_rendered(texts)
    assert rows == tokenizer(texts)["input_ids"]
    compared = originals.compare_causal(theirs, ours, theirs.config.vocab_size, rows, NEW_TOKENS)
    megabytes = (place / "model.safetensors").stat().st_size / 1e6
    return {
        **line("SmolLM2-135M-Instruct (GGUF Q4_1)", theirs, compared, place),
        "seconds_to_convert": round(seconds, 1),
        "weights_megabytes": round(megabytes, 1),
    }


def survives(directory: Path) -> bool:
    """Return whether every weight survives the way through transformers and back, bit for bit."""
    causal = not load_config(directory).encoder_layers
    auto = transformers.AutoModelForCausalLM if causal else transformers.AutoModelForSeq2SeqLM
    again = directory.with_name(f"{directory.name}-again")
    auto.from_pretrained(directory).save_pretrained(again)
    first, second = (load_file(place / "model.safetensors") for place in (directory, again))
    load_model(again)
    return first.keys() == second.keys() and all(
        torch.equal(first[name], second[name]) for name in first
    )


def line(name: str, theirs: Any, compared: originals.Comparison, directory: Path) -> dict[str, Any]:
    """Return the line of the table for one layout."""
    result = {
        "layout": name,
        "class": type(theirs).__name__,
        "parameters": theirs.num_parameters(),
        "largest_logit_difference": compared.largest_difference,
        "identical_continuations": sum(compared.alike),
        "prompts": len(compared.alike),
        "identical_after_round_trip": survives(directory),
    }
    print(result, file=sys.stderr)
    return result


if __name__ == "__main__":
    main()
