"""Compare a converted model that drafts with transformers' `generate` and, if installed, llama.cpp.

    python against_transformers.py SOURCE ORIGINAL DRAFTING PROMPTS [--ways text:3,both:4]
        [--output FILE]

SOURCE is what was converted (a GGUF file or a directory of transformers), ORIGINAL the model
directory `multistride convert` made of it, DRAFTING one that drafts it. Each prompt is a user's
turn, continued greedily, in float32; llama.cpp (`pip install xllamacpp`) computes with the file's
own small numbers instead, so its text is another one sooner or later. Three things are measured:

- the text, of all prompts, in batches: how many are those of transformers to the last token. Of
  others the margin between the two tokens is shown: only rounding may decide.
- the time, of the first `--timed` prompts, each alone (batch 1) and by every contender in turn, on
  one thread. All are given tokens, end at the same ones, and read the prompt within the time. The
  processor's time is recorded beside that of the clock: the two are one where nothing else runs.
- the memory of a process that does nothing but load one contender and write one text.
"""

from __future__ import annotations

import argparse
import functools
import importlib
import importlib.util
import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from multistride.cpu import cpu_name
from multistride.data.vocab import Vocabulary
from multistride.data.vocabulary_files import load_vocabulary
from multistride.decode.corpus import decode_corpus
from multistride.decode.hypothesis import Hypothesis
from multistride.decode.options import DecodeOptions
from multistride.device import keep_few_kernels, set_threads
from multistride.files import sha256, write_json
from multistride.generator import Generator
from multistride.groups import prompt_slots
from multistride.model.directory import load_config

Tokens = list[int]
ORIGINAL = "transformers"
LOOKUPS = (0, 2, 3)
"""Tokens that transformers' prompt lookup drafts a pass, which then checks one more; 0: plain
greedy search."""


@dataclass
class Contender:
    """One program: how it continues prompts, what it has written, and how long each timed text
    took.
    """

    write: Callable[[list[Tokens]], list[Tokens]]
    batched: bool = True
    passes: list[int] = field(default_factory=list)
    texts: list[Tokens] = field(default_factory=list)
    milliseconds: list[float] = field(default_factory=list)
    processor: list[float] = field(default_factory=list)
    timed: list[Tokens] = field(default_factory=list)


def ours(directory: Path, options: DecodeOptions) -> Contender:
    """A way of decoding, which also notes how many passes each text took."""
    model = loaded_once(directory)

    def write(prompts: list[Tokens]) -> list[Tokens]:
        found: list[Hypothesis] = decode_corpus(model.engine, prompts, model.planned(options))
        contender.passes.extend(each.steps for each in found)
        return [list(each.tokens) for each in found]

    contender = Contender(write)
    return contender


def theirs(source: Path, lookup: int, ends: Sequence[int], most: int) -> Contender:
    """Greedy search of transformers with its own cache, over its own code for this kind of model.

    With `lookup` above 0 it copies as many drafts from the text so far, which it does for one text
    at a time.
    """
    named: dict[str, Any] = {"pretrained_model_name_or_path": source}
    if source.suffix == ".gguf":
        named = {"pretrained_model_name_or_path": source.parent, "gguf_file": source.name}
    loaded = transformers.AutoModelForCausalLM.from_pretrained(**named, dtype=torch.float32).eval()
    settings: dict[str, Any] = {"prompt_lookup_num_tokens": lookup} if lookup else {}

    def write(prompts: list[Tokens]) -> list[Tokens]:
        width = max(map(len, prompts))
        rows = torch.tensor([[ends[0]] * (width - len(prompt)) + prompt for prompt in prompts])
        real = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts])
        with torch.inference_mode():
            whole = loaded.generate(
                rows,
                attention_mask=real,
                do_sample=False,
                max_new_tokens=most,
                eos_token_id=list(ends),
                pad_token_id=ends[0],
                **settings,
            )
        return [_until(row, ends) for row in whole[:, width:].tolist()]

    return Contender(write, batched=not lookup)


def llama_cpp(source: Path, vocabulary: Vocabulary, most: int) -> Contender:
    """The GGUF file in llama.cpp. It hands out text, which is made tokens again."""
    xllamacpp = importlib.import_module("xllamacpp")
    settings = xllamacpp.CommonParams()
    settings.model.path, settings.n_ctx, settings.n_parallel = str(source), 1024, 1
    settings.cpuparams.n_threads = settings.cpuparams_batch.n_threads = torch.get_num_threads()
    server = xllamacpp.Server(settings)

    def write(prompts: list[Tokens]) -> list[Tokens]:
        [prompt] = prompts
        asked = {
            "prompt": prompt,
            "n_predict": most,
            "temperature": 0.0,
            "top_k": 1,
            "cache_prompt": False,
        }
        answer = server.handle_completions(asked)
        answer = json.loads(answer) if isinstance(answer, str) else answer
        return vocabulary.encode_continuation([answer["choices"][0]["text"]])

    return Contender(write, batched=False)


def _until(tokens: Tokens, ends: Sequence[int]) -> Tokens:
    """What stands before the first end."""
    return tokens[
        : next((place for place, token in enumerate(tokens) if token in ends), len(tokens))
    ]


@functools.cache
def loaded_once(directory: Path) -> Generator:
    """A model of ours; ways of decoding share it."""
    return Generator.load(directory, engine="eager")


def makers(asked: argparse.Namespace) -> dict[str, Callable[[], Contender]]:
    """How each contender is made, by name. Nothing is loaded before."""
    ends, most = load_config(asked.original).ends, asked.max_tokens
    greedy = DecodeOptions.made(max_tokens=most, batch_size=asked.batch_size)
    made: dict[str, Callable[[], Contender]] = {
        f"{ORIGINAL}, prompt lookup of {count}" if count else ORIGINAL: functools.partial(
            theirs, asked.source, count, ends, most
        )
        for count in LOOKUPS
    }
    if asked.source.suffix == ".gguf" and importlib.util.find_spec("xllamacpp") is not None:
        numbers, vocabulary = asked.source.stem.rpartition(".")[2], load_vocabulary(asked.original)
        made[f"llama.cpp, {numbers}"] = functools.partial(llama_cpp, asked.source, vocabulary, most)
    made["multistride, K=1"] = functools.partial(ours, asked.original, greedy)
    for way in asked.ways.split(","):
        drafts, _, size = way.partition(":")
        options = greedy.model_copy(
            update={"group_size": int(size), "mode": "exact", "drafts": drafts}
        )
        options.checked(load_config(asked.drafting))
        made[f"multistride, exact, K={size}, drafts {drafts}"] = functools.partial(
            ours, asked.drafting, options
        )
    return made


def margin(model: Generator, prompt: Tokens, one: Tokens, other: Tokens) -> float:
    """The distance of the two tokens in K=1 logits where the texts part; 0 if one is the beginning
    of the other.
    """
    places = [
        place
        for place, (first, second) in enumerate(zip(one, other, strict=False))
        if first != second
    ]
    if not places:
        return 0.0
    known = torch.tensor([[*prompt, *one[: places[0] + 1]]])
    memory = model.engine.start(None, None)
    lengths = torch.tensor(
        [known.shape[1]]
    )  # the last of them is no token but the place that is predicted
    slots = prompt_slots(known, lengths, model.config.start_token, model.config.start_symbol)
    logits = model.engine.step(slots, memory)[0, -1]
    return abs(float(logits[one[places[0]]] - logits[other[places[0]]]))


def write_all(
    contenders: dict[str, Contender], prompts: list[Tokens], asked: argparse.Namespace
) -> None:
    """The texts of all prompts by those who take batches, or as an earlier run left them in
    `--texts`.
    """
    given = {"prompts": prompts, "max_tokens": asked.max_tokens}
    for name, contender in contenders.items():
        if not contender.batched:
            continue
        stored = (
            asked.texts / f"{name.replace(' ', '-').replace(',', '')}.json" if asked.texts else None
        )
        if stored is not None and stored.is_file():
            before = json.loads(stored.read_text(encoding="utf-8"))
            if before["given"] == given:
                contender.texts, contender.passes = before["texts"], before["passes"]
                continue
        write_sorted(name, contender, prompts, asked.batch_size)
        if stored is not None:
            write_json(
                stored, {"given": given, "texts": contender.texts, "passes": contender.passes}
            )


def write_sorted(name: str, contender: Contender, prompts: list[Tokens], size: int) -> None:
    """Prompts of like length together, as padding costs time."""
    order = sorted(range(len(prompts)), key=lambda place: len(prompts[place]))
    found: dict[int, Tokens] = {}
    for first in range(0, len(order), size):
        rows = order[first : first + size]
        found.update(zip(rows, contender.write([prompts[row] for row in rows]), strict=True))
        print(f"{name}: {len(found)} of {len(prompts)} texts", file=sys.stderr, flush=True)
    contender.texts = [found[place] for place in range(len(prompts))]


def time_all(contenders: dict[str, Contender], prompts: list[Tokens], rounds: int) -> None:
    """Every prompt alone by everyone in turn, of whom another one begins each time; the best of the
    rounds counts.

    Before the clock is looked at each has written one text.
    """
    names = list(contenders)
    for contender in contenders.values():
        contender.write(prompts[:1])
    for turn, prompt in enumerate(prompts):
        first = turn % len(names)
        times: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
        for _ in range(rounds):
            for name in names[first:] + names[:first]:
                began = time.perf_counter(), time.process_time()
                [text] = contenders[name].write([prompt])
                ended = time.perf_counter(), time.process_time()
                times[name].append((1000 * (ended[0] - began[0]), 1000 * (ended[1] - began[1])))
                if len(times[name]) == 1:
                    contenders[name].timed.append(text)
        for name in names:
            clock, processor = zip(*times[name], strict=True)
            contenders[name].milliseconds.append(min(clock))
            contenders[name].processor.append(min(processor))
        print(f"timed {turn + 1} of {len(prompts)}", file=sys.stderr, flush=True)


def facts_of(
    name: str, contenders: dict[str, Contender], prompts: list[Tokens], most: int
) -> dict[str, Any]:
    """What is recorded of one contender; speeds are those of single prompts."""
    mine, first = contenders[name], contenders[ORIGINAL]
    counts = np.array([min(len(text) + 1, most) for text in mine.timed])
    times, others = np.array(mine.milliseconds), np.array(first.milliseconds)
    speeds = 1000 * counts / times
    same = sum(text == other for text, other in zip(mine.timed, first.timed, strict=True))
    facts: dict[str, Any] = {
        "ms_per_text_p50": float(np.median(times)),
        "tokens_per_second": float(1000 * counts.sum() / times.sum()),
        "tokens_per_second_p10_p50_p90": [
            float(value) for value in np.percentile(speeds, (10, 50, 90))
        ],
        "times_as_fast_as_transformers": float(others.sum() / times.sum()),
        "times_as_fast_p10_p50_p90": [
            float(value) for value in np.percentile(others / times, (10, 50, 90))
        ],
        "processor_ms_per_text_p50": float(np.median(mine.processor)),
        "tokens_per_processor_second": float(1000 * counts.sum() / sum(mine.processor)),
        "times_as_fast_by_processor": sum(first.processor) / sum(mine.processor),
        "identical_of_timed": same,
    }
    if mine.texts:
        facts["identical"] = sum(
            text == other for text, other in zip(mine.texts, first.texts, strict=True)
        )
        facts["of"] = len(prompts)
    return facts


def different(
    name: str, contenders: dict[str, Contender], prompts: list[Tokens], model: Generator
) -> list[float]:
    """The margins of the texts that are not those of transformers."""
    pairs = zip(prompts, contenders[ORIGINAL].texts, contenders[name].texts, strict=True)
    return [margin(model, prompt, one, other) for prompt, one, other in pairs if one != other]


def peak_memory(arguments: Sequence[str], name: str, prompt: Tokens) -> float:
    """Megabytes at the peak of a process that loads one contender and continues one prompt."""
    command = [sys.executable, __file__, *arguments, "--alone", name]
    done = subprocess.run(
        command, input=json.dumps(prompt), check=True, capture_output=True, text=True
    )
    return float(done.stdout.split()[-1])


def alone(contender: Contender) -> None:
    """What such a process does. Its peak is asked of the kernel, which counts from the start of the
    program on.
    """
    contender.write([json.load(sys.stdin)])
    [line] = [
        each
        for each in Path("/proc/self/status").read_text().splitlines()
        if each.startswith("VmHWM")
    ]
    print(int(line.split()[1]) / 1024)


def parsed(arguments: Sequence[str]) -> argparse.Namespace:
    """What was asked for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    for place in ("source", "original", "drafting", "prompts"):
        parser.add_argument(place, type=Path)
    parser.add_argument(
        "--ways", default="text:3,text:4,both:4", help="who drafts, and the group size"
    )
    parser.add_argument("--max-tokens", type=int, default=64)
    parser.add_argument("--limit", type=int, default=100, help="prompts whose texts are compared")
    parser.add_argument("--texts", type=Path, help="folder that keeps the texts for another run")
    parser.add_argument("--timed", type=int, default=30, help="how many of them are timed")
    parser.add_argument(
        "--rounds", type=int, default=1, help="times that each is timed; the best counts"
    )
    parser.add_argument(
        "--batch-size", type=int, default=25, help="where texts are compared and nothing is timed"
    )
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--alone", help=argparse.SUPPRESS)
    parser.add_argument("--output", type=Path)
    return parser.parse_args(arguments)


def main(arguments: Sequence[str]) -> None:
    asked = parsed(arguments)
    set_threads(asked.threads)
    keep_few_kernels()
    making = makers(asked)
    if asked.alone:
        alone(making[asked.alone]())
        return
    original = loaded_once(asked.original)
    lines = asked.prompts.read_text(encoding="utf-8").splitlines()
    prompts = original.chatting().encode(lines[: asked.limit])
    memory = {name: peak_memory(arguments, name, prompts[0]) for name in making}
    contenders = {name: make() for name, make in making.items()}
    write_all(contenders, prompts, asked)
    per_pass = {
        name: sum(min(len(text) + 1, asked.max_tokens) for text in each.texts) / sum(each.passes)
        for name, each in contenders.items()
        if each.passes
    }
    margins = {name: different(name, contenders, prompts, original) for name in per_pass}
    time_all(contenders, prompts[: asked.timed], asked.rounds)
    results = {}
    for name in contenders:
        results[name] = facts_of(name, contenders, prompts, asked.max_tokens)
        if name in per_pass:
            results[name] |= {
                "tokens_per_pass": per_pass[name],
                "margins_where_different": margins[name],
            }
        results[name]["peak_memory_mb"] = memory[name]
    result = {
        "prompts": len(prompts),
        "timed": min(asked.timed, len(prompts)),
        "rounds": asked.rounds,
        "max_tokens": asked.max_tokens,
        "threads": asked.threads,
        "batch_size": 1,
        "batch_size_of_texts": asked.batch_size,
        "precision": "float32 (llama.cpp: that of the file)",
        "cpu": cpu_name(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "prompts_sha256": sha256(asked.prompts),
        "original_sha256": sha256(asked.original / "model.safetensors"),
        "drafting_sha256": sha256(asked.drafting / "model.safetensors"),
        "results": results,
    }
    if asked.output is not None:
        write_json(asked.output, result)
    print(json.dumps(results, indent=2))


if __name__ == "__main__":
    main(sys.argv[1:])
