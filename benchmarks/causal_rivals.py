"""Compare a converted causal model with llama.cpp and ONNX Runtime GenAI running the same weights.

    python benchmarks/causal_rivals.py MODEL MODEL.gguf --llama-python PYTHON --output FILE
        [--genai-model DIR ... --genai-python PYTHON]

All contenders get the same token ids of chat prompts and decode greedily until EOS or
`--max-tokens`. They take turns. The clock runs from ids to ids, so reading the prompt counts.

Alone, prompt after prompt: multistride at K=1 and in exact mode with drafts from text, llama.cpp
and ONNX Runtime GenAI plainly and with their own drafts from the text. Then 8 and 32 prompts
together in one batch: multistride at K=1, llama.cpp and ONNX Runtime GenAI. Every text of exact
mode and of a batch of multistride is checked to be the text of K=1 alone.

Each rival runs in a process of its own, which waits while others decode, with the Python of an
environment that has llama-cpp-python (built for this machine) or onnxruntime-genai. DIR is what
that package's model builder wrote, without `prune_lm_head`: drafts and batches need all logits.
docs/speed.md has the commands.
"""

from __future__ import annotations

import argparse
import itertools
import json
import logging
import statistics
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
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
"""Numbers of prompts decoded in one batch; the prompts are repeated to as many."""

Tokens = list[int]
Decoder = Callable[[list[Tokens], int], list[Tokens]]
"""Takes the prompts of one batch and the greatest number of tokens to write for each."""

WARM_UP = 4
"""Tokens that are written before anything is timed: kernels are chosen, buffers allocated."""


@dataclass(frozen=True)
class Contender:
    """A way to decode: the prompts of one batch to the ids written for each."""

    name: str
    program: str
    decode: Decoder
    together: int = 1

    def batches(self, prompts: list[Tokens]) -> list[list[Tokens]]:
        """Return the batches of one round: each prompt alone, or one batch of `together`."""
        if self.together == 1:
            return [[prompt] for prompt in prompts]
        return [list(itertools.islice(itertools.cycle(prompts), self.together))]


@dataclass
class Timed:
    """The measured rounds of one contender: seconds of each batch, and the texts."""

    seconds: list[list[float]]
    texts: list[Tokens]

    def speeds(self) -> list[float]:
        """Return the tokens per second of each round."""
        return [sum(map(len, self.texts)) / sum(each) for each in self.seconds]

    def speed(self) -> float:
        """Return the tokens per second of the median round."""
        return statistics.median(self.speeds())


def ours(model: Generator, given: argparse.Namespace) -> list[Contender]:
    """Return the ways of multistride."""

    def decoder(**choices: Any) -> Decoder:
        plans = {
            most: model.plan(max_tokens=most, **choices) for most in (WARM_UP, given.max_tokens)
        }

        def decode(prompts: list[Tokens], most: int) -> list[Tokens]:
            return [hypothesis.tokens for hypothesis in model.decoded(prompts, plans[most])]

        return decode

    exact = decoder(group_size=given.group_size, mode="exact", drafts="text")
    return [
        Contender("K=1", "multistride", decoder()),
        Contender("exact, drafts from text", "multistride", exact),
        *(
            Contender(
                f"K=1, {count} prompts together", "multistride", decoder(batch_size=count), count
            )
            for count in TOGETHER
        ),
    ]


def rival(python: Path, worker: str, arguments: list[str]) -> Decoder:
    """Return a decoder in a process of its own, which runs a worker script of this folder."""
    command = [str(python), str(Path(__file__).with_name(worker)), *arguments]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin is not None
    assert process.stdout is not None
    requests, answers = process.stdin, process.stdout

    def decode(prompts: list[Tokens], most: int) -> list[Tokens]:
        try:
            requests.write(json.dumps({"prompts": prompts, "max_tokens": most}) + "\n")
            requests.flush()
            line = answers.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise UserError(f"{' '.join(command)} ended: run it by itself to see why")
        texts: list[Tokens] = json.loads(line)["texts"]
        return texts

    return decode


def llama_contenders(given: argparse.Namespace) -> list[Contender]:
    """Return llama.cpp: plain, with its drafts by prompt lookup, in batches."""

    def decoder(drafted: int) -> Decoder:
        arguments = [str(given.gguf), str(given.threads), str(drafted)]
        return rival(given.llama_python, "llama_worker.py", arguments)

    plain = decoder(0)
    return [
        Contender("llama.cpp", "llama_cpp", plain),
        Contender("llama.cpp, prompt lookup of 2", "llama_cpp", decoder(2)),
        *(
            Contender(f"llama.cpp, {count} prompts together", "llama_cpp", plain, count)
            for count in TOGETHER
        ),
    ]


def genai_contenders(given: argparse.Namespace, padding: int) -> list[Contender]:
    """Return ONNX Runtime GenAI with each of its models: plain, with drafts, in batches."""
    contenders = []
    for path in given.genai_model:

        def decoder(drafted: int, path: Path = path) -> Decoder:
            arguments = [str(path), str(given.threads), str(padding), str(drafted)]
            return rival(given.genai_python, "genai_worker.py", arguments)

        name, plain = f"GenAI {path.name}", decoder(0)
        contenders += [
            Contender(name, "genai", plain),
            Contender(f"{name}, drafts of 4", "genai", decoder(4)),
            *(
                Contender(f"{name}, {count} prompts together", "genai", plain, count)
                for count in TOGETHER
            ),
        ]
    return contenders


def measure(
    contenders: list[Contender], prompts: list[Tokens], most: int, rounds: int
) -> dict[Contender, Timed]:
    """Return what each contender wrote and how long it took, in interleaved rounds."""
    timed = {contender: Timed([], []) for contender in contenders}
    alone = [contender for contender in contenders if contender.together == 1]
    for contender in contenders:
        contender.decode(contender.batches(prompts)[0], WARM_UP)
    for turn in range(rounds):
        order = [
            (contender, batch)
            for index, prompt in enumerate(prompts)
            for contender in rotated(alone, turn + index)
            for batch in [[prompt]]
        ] + [
            (contender, contender.batches(prompts)[0])
            for contender in rotated([each for each in contenders if each.together > 1], turn)
        ]
        seconds: dict[Contender, list[float]] = {contender: [] for contender in contenders}
        texts: dict[Contender, list[Tokens]] = {contender: [] for contender in contenders}
        for contender, batch in order:
            began = time.perf_counter()
            written = contender.decode(batch, most)
            seconds[contender].append(time.perf_counter() - began)
            texts[contender] += written
        for contender, one in timed.items():
            one.seconds.append(seconds[contender])
            if turn and texts[contender] != one.texts:
                logger.warning(f"{contender.name}: another text in round {turn + 1}")
            one.texts = texts[contender]
            logger.info(f"{contender.name}: {sum(seconds[contender]):.1f} s")
        logger.info(f"round {turn + 1} of {rounds}")
    return timed


def rotated(contenders: list[Contender], first: int) -> list[Contender]:
    """Return the contenders beginning with another one each turn: none is always the first."""
    first %= max(len(contenders), 1)
    return contenders[first:] + contenders[:first]


def check(timed: dict[Contender, Timed], prompts: list[Tokens]) -> None:
    """Check that each text of multistride is the one that K=1 writes alone.

    Raises:
        UserError: a text is another.
    """
    own = {each: one for each, one in timed.items() if each.program == "multistride"}
    [expected] = [one.texts for each, one in own.items() if each.name == "K=1"]
    for contender, one in own.items():
        for index, text in enumerate(one.texts):
            if text != expected[index % len(prompts)]:
                raise UserError(
                    f"{contender.name}: text {index + 1} is not that of K=1: please report this"
                )


def row_of(contender: Contender, timed: dict[Contender, Timed]) -> dict[str, Any]:
    """Return the row of one contender; its rivals are the faster ways for as many prompts."""
    one = timed[contender]
    by_name = {each.name: each_timed for each, each_timed in timed.items()}

    def times(name: str) -> float:
        pairs = zip(one.speeds(), by_name[name].speeds(), strict=True)
        return round(statistics.median(own / other for own, other in pairs), 3)

    row: dict[str, Any] = {
        "tokens": sum(map(len, one.texts)),
        "tokens_per_second": round(one.speed(), 1),
        "spread": [round(min(one.speeds()), 1), round(max(one.speeds()), 1)],
    }
    for program in ("llama_cpp", "genai"):
        if other := fastest(timed, program, contender.together):
            row[f"times_{program}"] = times(other)
    row["tokens_per_second_by_prompt"] = [
        round(len(text) / statistics.median(each[index] for each in one.seconds), 1)
        for index, text in enumerate(one.texts)
        if contender.together == 1
    ]
    return row


def fastest(timed: dict[Contender, Timed], program: str, together: int) -> str | None:
    """Return the name of the fastest way of a program with so many prompts together."""
    ways = {
        each.name: one.speed()
        for each, one in timed.items()
        if (each.program, each.together) == (program, together)
    }
    return max(ways, key=lambda name: ways[name]) if ways else None


def parsed() -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path, help="a converted model of multistride")
    parser.add_argument("gguf", type=Path, help="the file it was converted from")
    parser.add_argument("--llama-python", type=Path, required=True, metavar="PYTHON")
    parser.add_argument("--genai-model", type=Path, action="append", default=[], metavar="DIR")
    parser.add_argument("--genai-python", type=Path, metavar="PYTHON")
    parser.add_argument("--engine", default="auto", help="of multistride (auto)")
    parser.add_argument("--group-size", type=int, default=8, help="K of exact mode (8)")
    parser.add_argument("--max-tokens", type=int, default=64, help="of a text (64)")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--note", default="", help="what else the machine did")
    parser.add_argument("--output", type=Path, required=True)
    given = parser.parse_args()
    if given.genai_model and not given.genai_python:
        parser.error("--genai-model needs --genai-python")
    return given


def main() -> None:
    """Measure and write the result file."""
    given = parsed()
    log_to_stderr()
    set_threads(given.threads)
    model = Generator.load(given.model, "cpu", given.engine)
    prompts = model.chatting().encode(PROMPTS)
    padding = next(token for token in itertools.count() if not any(token in p for p in prompts))
    contenders = [
        *ours(model, given),
        *llama_contenders(given),
        *genai_contenders(given, padding),
    ]
    timed = measure(contenders, prompts, given.max_tokens, given.rounds)
    check(timed, prompts)
    results = {contender.name: row_of(contender, timed) for contender in contenders}
    for name, row in results.items():
        logger.info(f"{name}: {row['tokens_per_second']} tokens/s")
    rivals = {
        "gguf": given.gguf.name,
        "gguf_sha256": sha256(given.gguf),
        "llama_cpp_python": version(given.llama_python, "llama_cpp"),
        "better_llama_cpp": fastest(timed, "llama_cpp", 1),
    }
    if given.genai_model:
        rivals["onnxruntime_genai"] = version(given.genai_python, "onnxruntime_genai")
        rivals["better_genai"] = fastest(timed, "genai", 1)
    settings = {
        "prompts": len(prompts),
        "timed": len(prompts),
        "model": given.model.name,
        "engine": f"{model.engine.name}, {model.engine.precision}",
        "group_size": given.group_size,
        "max_tokens": given.max_tokens,
        "rounds": given.rounds,
        "threads": given.threads,
        "cpu": cpu_name(),
        "multistride": __version__,
        **rivals,
        "note": given.note,
    }
    write_json(given.output, {**settings, "texts": PROMPTS, "results": results})


def version(python: Path, package: str) -> str:
    """Return the version of a package in an environment."""
    code = f"import {package}; print({package}.__version__)"
    done = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.strip()


if __name__ == "__main__":
    main()
