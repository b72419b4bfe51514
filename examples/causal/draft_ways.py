"""Measure the sources of drafts of a chat model: tokens a pass, and time a token.

    python draft_ways.py MODEL PROMPTS [--ways text:3,text:4,head:3,head:4] [--output FILE]

All prompts are answered, which says how many tokens a pass writes and whether each text is that of
K=1; the first `--timed` once more alone, by all ways in turn. Times are those of the processor, as
other work may run beside. A head drafts trees only for a text alone (`--batch-size 1`, as by
default).
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch

from multistride.cpu import cpu_name
from multistride.decode.corpus import decode_corpus
from multistride.decode.draft_head import DRAFT_HEAD
from multistride.decode.options import DecodeOptions
from multistride.decode.phrases import PHRASES
from multistride.decode.plan import Plan
from multistride.device import set_threads
from multistride.files import sha256, write_json
from multistride.generator import Generator


def plans(model: Generator, asked: argparse.Namespace) -> dict[str, Plan]:
    """Return K=1 and the ways asked for."""
    common = {"max_tokens": asked.max_tokens, "batch_size": asked.batch_size}
    made = {"K=1": model.planned(DecodeOptions.made(**common))}
    for way in asked.ways.split(","):
        drafts, _, size = way.partition(":")
        choices = {"group_size": int(size), "mode": "exact", "drafts": drafts, **common}
        made[f"exact, K={size}, drafts {drafts}"] = model.planned(DecodeOptions.made(**choices))
    return made


def main() -> None:
    """Write all texts, time some, and record both."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("prompts", type=Path)
    parser.add_argument("--ways", default="text:3,text:4,head:3,head:4")
    parser.add_argument("--engine", default="int8")
    parser.add_argument("--max-tokens", type=int, default=64)
    parser.add_argument("--batch-size", type=int, default=1)
    parser.add_argument("--timed", type=int, default=20)
    parser.add_argument("--output", type=Path)
    asked = parser.parse_args()
    set_threads(1)
    model = Generator.load(asked.model, engine=asked.engine)
    lines = asked.prompts.read_text(encoding="utf-8").splitlines()
    prompts = model.chatting().encode(lines)
    ways, results = plans(model, asked), dict[str, dict[str, Any]]()
    texts: dict[str, list[list[int]]] = {}
    for name, plan in ways.items():
        found = decode_corpus(model.engine, prompts, plan)
        texts[name] = [list(text.tokens) for text in found]
        same = sum(one == other for one, other in zip(texts[name], texts["K=1"], strict=True))
        tokens = sum(min(len(text) + 1, asked.max_tokens) for text in texts["K=1"])
        passes = sum(text.steps for text in found)
        results[name] = {"tokens_per_pass": tokens / passes, "identical": same}
        print(name, results[name], flush=True)
    times = dict.fromkeys(ways, 0.0)
    for turn, prompt in enumerate(prompts[: asked.timed]):
        order = list(ways)[turn % len(ways) :] + list(ways)[: turn % len(ways)]
        for name in order:
            began = time.process_time()
            decode_corpus(model.engine, [prompt], ways[name])
            times[name] += 1000 * (time.process_time() - began)
    written = sum(min(len(text) + 1, asked.max_tokens) for text in texts["K=1"][: asked.timed])
    for name in ways:
        results[name]["processor_ms_per_token"] = times[name] / written
        results[name]["times_as_fast_as_k1"] = times["K=1"] / times[name]
    result = {
        "prompts": len(prompts),
        "timed": asked.timed,
        "max_tokens": asked.max_tokens,
        "engine": asked.engine,
        "threads": 1,
        "cpu": cpu_name(),
        "torch": torch.__version__,
        "prompts_sha256": sha256(asked.prompts),
        **{
            f"{name.partition('.')[0]}_sha256": sha256(asked.model / name)
            for name in (DRAFT_HEAD, PHRASES)
            if (asked.model / name).is_file()
        },
        "results": results,
    }
    if asked.output is not None:
        write_json(asked.output, result)
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
