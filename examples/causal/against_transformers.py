"""Whose text, and how fast: a converted model that drafts, transformers' `generate`, and llama.cpp where it is there.

usage: against_transformers.py SOURCE ORIGINAL DRAFTING PROMPTS [--ways text:4,both:4] [--limit 100] [--output FILE]

SOURCE is what was converted (a GGUF file or a directory of transformers), ORIGINAL the model directory `multistride
convert` made of it, DRAFTING one that drafts it. Each prompt is a user's turn, decoded by every contender in turn,
alone (batch 1), greedily, on one thread and in float32; llama.cpp (`pip install xllamacpp`) computes with the file's
own small numbers instead, so its text is another one sooner or later. What is compared with is the text of
transformers. Where it differs, the margin between the two tokens is shown: only rounding may decide.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers

from multistride.decode.corpus import decode_corpus
from multistride.decode.options import DecodeOptions
from multistride.device import cpu_name, keep_few_kernels
from multistride.files import sha256, write_json
from multistride.generator import Generator
from multistride.groups import prompt_slots

Write = Callable[[list[int]], list[int]]


def ours(model: Generator, options: DecodeOptions, passes: list[int]) -> Write:
    """A writer that also notes how many passes each text took."""

    def write(prompt: list[int]) -> list[int]:
        [hypothesis] = decode_corpus(model.engine, [prompt], options, measured=model.measured_for(options))
        passes.append(hypothesis.steps)
        return hypothesis.tokens

    return write


def theirs(source: Path, end: int, most: int) -> dict[str, Write]:
    """Greedy search of transformers with its own cache, over its own code for this kind of model.

    Beside it the same with its prompt lookup, which copies drafts from the text so far.
    """
    named = {"pretrained_model_name_or_path": source}
    if source.suffix == ".gguf":
        named = {"pretrained_model_name_or_path": source.parent, "gguf_file": source.name}
    loaded = transformers.AutoModelForCausalLM.from_pretrained(**named, dtype=torch.float32).eval()

    def writer(**settings: Any) -> Write:
        def write(prompt: list[int]) -> list[int]:
            rows = torch.tensor([prompt])
            with torch.inference_mode():
                whole = loaded.generate(
                    rows, attention_mask=torch.ones_like(rows), do_sample=False, max_new_tokens=most,
                    eos_token_id=end, pad_token_id=end, **settings,
                )  # fmt: skip
            written = whole[0, len(prompt) :].tolist()
            return written[: written.index(end)] if end in written else written

        return write

    return {"transformers": writer(), "transformers, prompt lookup": writer(prompt_lookup_num_tokens=3)}


def llama_cpp(source: Path, model: Generator, most: int) -> dict[str, Write]:
    """The same file in llama.cpp; nothing where its package or a GGUF file is missing.

    It hands out text, which is made tokens again.
    """
    if source.suffix != ".gguf" or importlib.util.find_spec("xllamacpp") is None:
        return {}
    xllamacpp = importlib.import_module("xllamacpp")
    settings = xllamacpp.CommonParams()
    settings.model.path, settings.n_ctx, settings.n_parallel = str(source), 1024, 1
    settings.cpuparams.n_threads = settings.cpuparams_batch.n_threads = 1
    server = xllamacpp.Server(settings)

    def write(prompt: list[int]) -> list[int]:
        asked = {"prompt": prompt, "n_predict": most, "temperature": 0.0, "top_k": 1, "cache_prompt": False}
        answer = server.handle_completions(asked)
        answer = json.loads(answer) if isinstance(answer, str) else answer
        return model.vocabulary.encode([answer["choices"][0]["text"]])[0]

    return {f"llama.cpp, {source.stem.rpartition('.')[2]}": write}


def margin(model: Generator, prompt: list[int], one: list[int], other: list[int]) -> float:
    """The distance of the two tokens in K=1 logits where the texts part; 0 if one is the beginning of the other."""
    places = [place for place, (first, second) in enumerate(zip(one, other, strict=False)) if first != second]
    if not places:
        return 0.0
    known = torch.tensor([[*prompt, *one[: places[0] + 1]]])
    memory = model.engine.start(None, None)
    lengths = torch.tensor([known.shape[1]])  # the last of them is no token but the place that is predicted
    slots = prompt_slots(known, lengths, model.config.start_token, model.config.start_symbol)
    logits = model.engine.step(slots, memory)[0, -1]
    return abs(float(logits[one[places[0]]] - logits[other[places[0]]]))


def contest(writers: dict[str, Write], prompts: list[list[int]]) -> tuple[dict[str, Any], dict[str, list[float]]]:
    """The texts and milliseconds of each contender; who begins changes from prompt to prompt."""
    texts: dict[str, Any] = {name: [] for name in writers}
    times: dict[str, list[float]] = {name: [] for name in writers}
    names = list(writers)
    for turn, prompt in enumerate(prompts):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            began = time.perf_counter()
            texts[name].append(writers[name](prompt))
            times[name].append(1000 * (time.perf_counter() - began))
    return texts, times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", type=Path)
    parser.add_argument("original", type=Path)
    parser.add_argument("drafting", type=Path)
    parser.add_argument("prompts", type=Path)
    parser.add_argument("--ways", default="text:4,masks:4,both:4", help="who drafts, and the group size")
    parser.add_argument("--max-tokens", type=int, default=64)
    parser.add_argument("--limit", type=int, default=100)
    parser.add_argument("--output", type=Path)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    keep_few_kernels()
    original, drafting = Generator.load(asked.original), Generator.load(asked.drafting)
    prompts = original.chatting().encode(asked.prompts.read_text(encoding="utf-8").splitlines()[: asked.limit])
    greedy = DecodeOptions.made(max_length=asked.max_tokens, batch_size=1)
    passes: dict[str, list[int]] = {"multistride, K=1": []}
    writers = theirs(asked.source, original.config.end_token, asked.max_tokens)
    writers |= llama_cpp(asked.source, original, asked.max_tokens)
    writers["multistride, K=1"] = ours(original, greedy, passes["multistride, K=1"])
    for way in asked.ways.split(","):
        drafts, _, size = way.partition(":")
        options = greedy.model_copy(update={"group_size": int(size), "mode": "exact", "drafts": drafts})
        name = f"multistride, exact, K={size}, drafts {drafts}"
        passes[name] = []
        writers[name] = ours(drafting, options.checked(drafting.config), passes[name])
    for write in writers.values():  # warm
        write(prompts[0])
    for steps in passes.values():
        steps.clear()
    texts, times = contest(writers, prompts)
    facts = {name: measured(name, texts, times, passes, original, prompts, asked.max_tokens) for name in writers}
    result = {
        "prompts": len(prompts), "max_tokens": asked.max_tokens, "threads": 1, "batch_size": 1,
        "precision": "float32 (llama.cpp: that of the file)", "cpu": cpu_name(), "torch": torch.__version__,
        "transformers": transformers.__version__, "prompts_sha256": sha256(asked.prompts),
        "original_sha256": sha256(asked.original / "model.safetensors"),
        "drafting_sha256": sha256(asked.drafting / "model.safetensors"), "results": facts,
    }  # fmt: skip
    if asked.output is not None:
        write_json(asked.output, result)
    print(json.dumps(facts, indent=2))


def measured(
    name: str,
    texts: dict[str, Any],
    times: dict[str, list[float]],
    passes: dict[str, list[int]],
    original: Generator,
    prompts: list[list[int]],
    most: int,
) -> dict[str, Any]:
    """What is recorded of one contender."""
    right = texts["transformers"]
    tokens = sum(min(len(text) + 1, most) for text in texts[name])
    different = [place for place, text in enumerate(texts[name]) if text != right[place]]
    facts: dict[str, Any] = {
        "ms_per_text_p50": statistics.median(times[name]),
        "tokens_per_second": 1000 * tokens / sum(times[name]),
        "identical_to_transformers": 1 - len(different) / len(prompts),
    }
    if name in passes:
        facts["tokens_per_pass"] = tokens / sum(passes[name])
        facts["margins_where_different"] = [
            margin(original, prompts[place], right[place], texts[name][place]) for place in different
        ]
    return facts


if __name__ == "__main__":
    main()
