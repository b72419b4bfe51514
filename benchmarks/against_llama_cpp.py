"""A converted model against llama.cpp with the weights it was converted from, in turns.

    python benchmarks/against_llama_cpp.py MODEL MODEL.gguf --llama-python PYTHON --output FILE

All get the same token ids of chat prompts and decode greedily until EOS or `--max-tokens`; the
clock runs from ids to ids, prompts included. llama.cpp runs in a process of its own that waits
while others decode; it decodes plainly, and with its own drafting by prompt lookup. Ours is K=1 and
exact mode with drafts from text, each on the same engine; every text of exact mode is checked to be
that of K=1. In the end of a round all prompts are decoded in one batch, then 32, at K=1; their
texts are checked to be those that prompts get alone. PYTHON is that of an environment with
llama-cpp-python, built for this machine.
"""

from __future__ import annotations

import argparse
import json
import logging
import statistics
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from multistride.cli.console import log_to_stderr
from multistride.cpu import cpu_name
from multistride.device import set_threads
from multistride.errors import UserError
from multistride.files import sha256, write_json
from multistride.generator import Generator
from multistride.version import __version__

logger = logging.getLogger("multistride.benchmarks")

TEXT = (
    "The lighthouse keeper climbed the stairs every evening at six. He lit the lamp, wrote the "
    "weather into the book, and sat down at the window. In the morning he put out the lamp, "
    "climbed down the stairs and slept."
)

PROMPTS = (
    "What is the capital of France? Tell me a short story about it.",
    "List ten fruits, one a line.",
    "Explain how a bicycle works.",
    f"Repeat this text word for word: {TEXT}",
    f"Correct the spelling of this text and write it again: {TEXT.replace('the', 'teh')}",
    f"Who lit the lamp, and when? Quote the sentences. Text: {TEXT}",
    "Write a Python function that adds two numbers, then one that multiplies two numbers.",
    "Count from one to thirty in words.",
)
"""Stories, explanations, lists, code, and texts that are copied in part."""

TOGETHER = (8, 32)
"""Prompts decoded in one batch; they are repeated to as many."""

Contender = Callable[[list[int]], list[int]]


def own(model: Generator, **choices: Any) -> Contender:
    """Return one of our ways: prompt ids to written ids."""
    plan = model.plan(**choices)

    def write(tokens: list[int]) -> list[int]:
        [hypothesis] = model.decoded([tokens], plan)
        return hypothesis.tokens

    return write


def llama(python: Path, gguf: Path, threads: int, drafted: int, most: int) -> Contender:
    """Return llama.cpp in a process of its own."""
    command = [
        *(str(python), str(Path(__file__).with_name("llama_worker.py"))),
        *(str(gguf), str(threads), str(drafted)),
    ]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin is not None
    assert process.stdout is not None
    given, written = process.stdin, process.stdout

    def write(tokens: list[int]) -> list[int]:
        given.write(json.dumps({"tokens": tokens, "max_tokens": most}) + "\n")
        given.flush()
        line = written.readline()
        if not line:
            raise UserError(f"{' '.join(command)} ended: run it by itself to see why")
        answer: list[int] = json.loads(line)["tokens"]
        return answer

    return write


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path)
    parser.add_argument("gguf", type=Path)
    parser.add_argument("--llama-python", type=Path, required=True)
    parser.add_argument("--engine", default="auto")
    parser.add_argument("--group-size", type=int, default=8)
    parser.add_argument("--max-tokens", type=int, default=64)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--note", default="", help="what else the machine did")
    parser.add_argument("--output", type=Path, required=True)
    given = parser.parse_args()
    log_to_stderr()
    set_threads(given.threads)
    model = Generator.load(given.model, "cpu", given.engine)
    most = {"max_tokens": given.max_tokens}
    start = (given.llama_python, given.gguf, given.threads)
    contenders: dict[str, Contender] = {
        "K=1": own(model, **most),
        "exact, drafts from text": own(
            model, group_size=given.group_size, mode="exact", drafts="text", **most
        ),
        "llama.cpp": llama(*start, 0, given.max_tokens),
        "llama.cpp, prompt lookup of 2": llama(*start, 2, given.max_tokens),
        "llama.cpp, prompt lookup of 10": llama(*start, 10, given.max_tokens),
    }
    prompts = model.chatting().encode(PROMPTS)
    batches = {
        f"K=1, {count} prompts together": (
            [prompts[index % len(prompts)] for index in range(count)],
            model.plan(batch_size=count, **most),
        )
        for count in TOGETHER
    }
    seconds: dict[str, list[list[float]]] = {name: [] for name in [*contenders, *batches]}
    texts: dict[str, list[list[int]]] = {}
    for turn in range(given.rounds + 1):
        times: dict[str, list[float]] = {name: [] for name in seconds}
        for index, prompt in enumerate(prompts):
            names = list(contenders)
            first = (turn + index) % len(names)
            for name in names[first:] + names[:first]:
                began = time.perf_counter()
                tokens = contenders[name](prompt)
                times[name].append(time.perf_counter() - began)
                texts.setdefault(name, []).append(tokens)
        for name, (batch, plan) in batches.items():
            began = time.perf_counter()
            written = model.decoded(batch, plan)
            times[name] = [time.perf_counter() - began]
            texts.setdefault(name, [hypothesis.tokens for hypothesis in written])
        if turn:  # the first round warms up
            for name, each in times.items():
                seconds[name].append(each)
                logger.info(f"{name}: {sum(each):.1f} s")
        logger.info(f"round {turn} of {given.rounds}")
    if texts["K=1"] != texts["exact, drafts from text"]:
        raise UserError("a text of exact mode is not that of K=1: please report this")
    for name, (batch, _) in batches.items():
        alone = [texts["K=1"][index % len(prompts)] for index in range(len(batch))]
        if texts[name] != alone:
            raise UserError(f"{name}: a text is not the one written alone: please report this")
    counts = {
        name: [len(text) for text in (found if name in batches else found[: len(prompts)])]
        for name, found in texts.items()
    }
    speeds = {
        name: [sum(counts[name]) / sum(each) for each in rounds] for name, rounds in seconds.items()
    }
    rivals = [name for name in contenders if name.startswith("llama")]
    better = max(rivals, key=lambda name: statistics.median(speeds[name]))
    rows: list[dict[str, Any]] = [
        {
            "name": name,
            "tokens": sum(counts[name]),
            "tokens_per_second": round(statistics.median(speeds[name]), 1),
            "spread": [round(min(speeds[name]), 1), round(max(speeds[name]), 1)],
            "times_llama_cpp": round(
                statistics.median(
                    own / other for own, other in zip(speeds[name], speeds[better], strict=True)
                ),
                3,
            ),
            "tokens_per_second_by_prompt": [
                round(counts[name][index] / statistics.median(each[index] for each in rounds), 1)
                for index in range(len(prompts) if name in contenders else 0)
            ],
        }
        for name, rounds in seconds.items()
    ]
    for row in rows:
        logger.info(f"{row['name']}: {row['tokens_per_second']} tokens/s")
    settings = {
        "model": given.model.name,
        "gguf": given.gguf.name,
        "gguf_sha256": sha256(given.gguf),
        "engine": f"{model.engine.name}, {model.engine.precision}",
        "group_size": given.group_size,
        "max_tokens": given.max_tokens,
        "rounds": given.rounds,
        "threads": given.threads,
        "cpu": cpu_name(),
        "multistride": __version__,
        "llama_cpp_python": installed(given.llama_python),
        "better_llama_cpp": better,
        "note": given.note,
    }
    counted = {"prompts": len(prompts), "timed": len(prompts)}
    results = {row.pop("name"): row for row in rows}
    write_json(given.output, {**counted, **settings, "texts": PROMPTS, "results": results})


def installed(python: Path) -> str:
    """Return the version of llama-cpp-python in an environment."""
    code = "import llama_cpp; print(llama_cpp.__version__)"
    done = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.strip()


if __name__ == "__main__":
    main()
