"""The same model in transformers' `generate` and here: the same tokens, and the time of each, interleaved.

usage: against_transformers.py SOURCE ORIGINAL DRAFTING PROMPTS [--group-size 4] [--max-tokens 64] [--output FILE]

SOURCE is the model as transformers reads it (a directory or a GGUF file), ORIGINAL what `multistride convert` made of
it, DRAFTING the same with adapters. Every prompt is continued by all of them in turn, alone (batch 1), greedily, in
float32, on one thread. Where texts differ, the margin between the two tokens is shown: only rounding may decide.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
import transformers

from multistride.decode.corpus import decode_corpus
from multistride.decode.options import DecodeOptions
from multistride.device import cpu_name
from multistride.files import sha256, write_json
from multistride.generator import Generator

Write = Callable[[list[int]], list[int]]


def ours(model: Generator, options: DecodeOptions, passes: list[int]) -> Write:
    """A writer that also notes how many passes each text took."""

    def write(prompt: list[int]) -> list[int]:
        [hypothesis] = decode_corpus(model.engine, [prompt], options)
        passes.append(hypothesis.steps)
        return hypothesis.tokens

    return write


def theirs(source: Path, model: Generator, most: int) -> Write:
    """The greedy search of transformers with its own cache, over its own code for this kind of model."""
    if source.suffix == ".gguf":
        loaded = transformers.AutoModelForCausalLM.from_pretrained(source.parent, gguf_file=source.name)
    else:
        loaded = transformers.AutoModelForCausalLM.from_pretrained(source)
    loaded = loaded.float().eval()
    end = model.config.end_token

    def write(prompt: list[int]) -> list[int]:
        rows = torch.tensor([prompt])
        with torch.inference_mode():
            whole = loaded.generate(
                rows, attention_mask=torch.ones_like(rows), do_sample=False, max_new_tokens=most, eos_token_id=end,
                pad_token_id=end,
            )  # fmt: skip
        written = whole[0, len(prompt) :].tolist()
        return written[: written.index(end)] if end in written else written

    return write


def margin(model: Generator, prompt: list[int], one: list[int], other: list[int]) -> float:
    """The distance of the two tokens in K=1 logits where the texts part; 0 if one is the beginning of the other."""
    places = [place for place, (first, second) in enumerate(zip(one, other, strict=False)) if first != second]
    if not places:
        return 0.0
    known = [*prompt, *one[: places[0]]]
    options = DecodeOptions.made(max_length=1, batch_size=1)
    logits: list[torch.Tensor] = []
    step = model.engine.step
    model.engine.step = lambda slots, memory: logits.append(step(slots, memory)) or logits[-1]  # type: ignore
    decode_corpus(model.engine, [known], options)
    del model.engine.step
    last = logits[-1][0, -1]
    return abs(float(last[one[places[0]]] - last[other[places[0]]]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", type=Path)
    parser.add_argument("original", type=Path)
    parser.add_argument("drafting", type=Path)
    parser.add_argument("prompts", type=Path)
    parser.add_argument("--group-size", type=int, default=4)
    parser.add_argument("--max-tokens", type=int, default=64)
    parser.add_argument("--limit", type=int, default=100)
    parser.add_argument("--output", type=Path)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    original, drafting = Generator.load(asked.original), Generator.load(asked.drafting)
    prompts = original.chatting().encode(asked.prompts.read_text(encoding="utf-8").splitlines()[: asked.limit])
    greedy = DecodeOptions.made(max_length=asked.max_tokens, batch_size=1)
    exact = greedy.model_copy(update={"group_size": asked.group_size, "mode": "exact"})
    passes: dict[str, list[int]] = {"k1": [], "exact": []}
    writers: dict[str, Write] = {
        "transformers": theirs(asked.source, original, asked.max_tokens),
        "k1": ours(original, greedy, passes["k1"]),
        "exact": ours(drafting, exact, passes["exact"]),
    }
    texts: dict[str, list[list[int]]] = {name: [] for name in writers}
    times: dict[str, list[float]] = {name: [] for name in writers}
    for write in writers.values():  # warm
        write(prompts[0])
    for steps in passes.values():
        steps.clear()
    for turn, prompt in enumerate(prompts):
        names = list(writers)
        for name in names[turn % 3 :] + names[: turn % 3]:
            began = time.perf_counter()
            texts[name].append(writers[name](prompt))
            times[name].append(1000 * (time.perf_counter() - began))
    count = sum(min(len(text) + 1, asked.max_tokens) for text in texts["exact"])
    facts = {
        name: {
            "ms_per_text_p50": statistics.median(times[name]),
            "seconds": sum(times[name]) / 1000,
            "same_as_original_k1": sum(map(list.__eq__, texts[name], texts["k1"])) / len(prompts),
            "margins_where_different": [
                margin(original, prompt, one, other)
                for prompt, one, other in zip(prompts, texts["k1"], texts[name], strict=True)
                if one != other
            ],
        }
        for name in writers
    }
    facts["exact"]["tokens_per_pass"] = count / sum(passes["exact"])
    result = {
        "prompts": len(prompts),
        "group_size": asked.group_size,
        "max_tokens": asked.max_tokens,
        "threads": 1,
        "batch_size": 1,
        "precision": "float32",
        "cpu": cpu_name(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "original_sha256": sha256(asked.original / "model.safetensors"),
        "drafting_sha256": sha256(asked.drafting / "model.safetensors"),
        "results": facts,
    }
    if asked.output is not None:
        write_json(asked.output, result)
    for name, each in facts.items():
        print(name, each)


if __name__ == "__main__":
    main()
