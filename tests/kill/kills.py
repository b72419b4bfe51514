"""Kill train, distill and translate at every change of the file system; run them again; compare.

    python tests/kill/kills.py --kills 200 --output results/kills.json

A child process runs the command with the functions that change files replaced by ones that count,
and that end it with SIGKILL at a chosen number. The same command then runs to its end (train with
--resume), and what lies there must be what an uninterrupted run leaves: weights, best, last,
metrics, outputs, and no other file. Exit code 1 if anything differs. Needs `fork`.
"""

import argparse
import builtins
import hashlib
import io
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import accelerate  # noqa: F401, imported once, before the forks
import torch

import multistride.distill.run
import multistride.evaluate.validation
import multistride.train.loop  # noqa: F401
from multistride.cli import main as command_line

CHANGES = ("replace", "rename", "unlink", "rmdir", "mkdir", "symlink", "fsync", "truncate")
SIZES = (
    "{hidden_size: 16, feedforward_size: 16, heads: 2, encoder_layers: 1, decoder_layers: 1, "
    "max_positions: 16}"
)
TRAIN = """\
data: ../data
run: run
model: %s
groups: {sizes: {1: 0.5, 2: 0.5}}
training: {updates: 12, tokens_per_batch: 100, learning_rate: 0.01, warmup_updates: 2,
  validate_every: 3, validate_sentences: 2, log_every: 2, precision: float32,
  device: cpu, keep_checkpoints: 2}
"""


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    began = time.monotonic()
    result = kills(options.kills)
    result["seconds"] = round(time.monotonic() - began, 1)
    result["command"] = " ".join(["python", os.path.relpath(__file__), *sys.argv[1:]])
    print(json.dumps(result, indent=2))
    if options.output:
        options.output.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    return 1 if result["differences"] else 0


def kills(count: int) -> dict[str, Any]:
    """Kill each command at places spread over its changes, `count` times in all."""
    torch.set_num_threads(1)
    counts: dict[str, Any] = {}
    differences: list[str] = []
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        commands = _prepared(place)
        for command, (arguments, again, share) in commands.items():
            whole = place / "whole" / command
            changes = _run(whole, arguments, 0)
            expected = _facts(whole)
            wanted = min(changes, max(1, round(count * share)))
            numbers = sorted(
                {1 + round(step * (changes - 1) / max(wanted - 1, 1)) for step in range(wanted)}
            )
            for number in numbers:
                directory = place / "killed" / command
                shutil.rmtree(directory, ignore_errors=True)
                ended = _run(directory, arguments, number)
                if ended != -signal.SIGKILL:
                    differences.append(f"{command} {number}: not killed ({ended})")
                done = _run(directory, again, 0)
                if done < 0:
                    differences.append(f"{command} {number}: the next start failed ({done})")
                found = _facts(directory)
                differences += [
                    f"{command} {number}: {key}"
                    for key in sorted(expected.keys() | found.keys())
                    if expected.get(key) != found.get(key)
                ]
            counts[command] = {"changes": changes, "kills": len(numbers)}
    return {
        "kills": sum(entry["kills"] for entry in counts.values()),
        "commands": counts,
        "differences": differences,
    }


def _prepared(place: Path) -> dict[str, tuple[list[str], list[str], float]]:
    """Make data and a model; return each command, the one that resumes it, and its share."""
    words = [a + b for a in "abcdef" for b in "ghijkl"]
    for side, order in (("source", 1), ("target", -1)):
        lines = "".join(" ".join(word[::order]) + "\n" for word in words)
        (place / f"{side}.txt").write_text(lines)
    source, target = str(place / "source.txt"), str(place / "target.txt")
    prepare = ["prepare", "--output", str(place / "data"), "--vocabulary-kind", "words"]
    for split in ("train", "validation"):
        prepare += [f"--{split}-source", source, f"--{split}-target", target]
    assert _run(place / "first", prepare, 0) >= 0
    (place / "train.yaml").write_text(TRAIN.replace("../data", str(place / "data")) % SIZES)
    train = ["train", str(place / "train.yaml"), "--threads", "1"]
    assert _run(place / "first", train, 0) >= 0
    model = str(place / "first" / "run" / "best")
    distill = [
        "distill",
        "--model",
        model,
        "--source",
        source,
        "--output",
        "out",
        "--engine",
        "eager",
    ]
    distill += ["--chunk", "4", "--beam", "1", "--device", "cpu", "--threads", "1"]
    translate = [
        "translate",
        "--model",
        model,
        "--input",
        source,
        "--output",
        "out",
        "--engine",
        "eager",
    ]
    translate += ["--buffer", "4", "--threads", "1"]
    return {
        "train": (train, [*train, "--resume"], 0.5),
        "distill": (distill, distill, 0.25),
        "translate": (translate, translate, 0.25),
    }


def _run(directory: Path, arguments: list[str], limit: int) -> int:
    """Run a command in a child; return how many files it changed, or minus how it ended."""
    directory.mkdir(parents=True, exist_ok=True)
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        os.chdir(directory)
        log = os.open(directory.with_suffix(".log"), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(log, 1)
        os.dup2(log, 2)
        counter = _counting(limit)
        leave = os._exit

        def reporting(code: int) -> None:
            os.write(writer, f"{counter()} {code}".encode())
            leave(code)

        os._exit = reporting
        sys.argv = ["multistride", *arguments]
        try:
            command_line()
        except SystemExit as ended:
            reporting(int(ended.code or 0))
        except BaseException:
            reporting(99)
        reporting(0)
    os.close(writer)
    with open(reader, "rb") as pipe:
        said = pipe.read().split()
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return -os.WTERMSIG(status)
    changes, code = map(int, said)
    return changes if code == 0 else -1000 - code


def _counting(limit: int) -> Callable[[], int]:
    """Let every change of a file count, and the one with the number `limit` be the last."""
    count = 0

    def change() -> None:
        nonlocal count
        count += 1
        if count == limit:
            os.kill(os.getpid(), signal.SIGKILL)

    def counted(function: Any, counts: Callable[..., bool] = lambda *rest: True) -> Any:
        def call(*rest: Any, **names: Any) -> Any:
            if counts(*rest):
                change()
            return function(*rest, **names)

        return call

    for name in CHANGES:
        setattr(os, name, counted(getattr(os, name)))
    os.open = counted(os.open, lambda path, flags=0, *rest: bool(flags & os.O_CREAT))
    opened = counted(io.open, lambda file, mode="r", *rest: bool(set(mode) & set("wax+")))
    io.open = builtins.open = opened
    return lambda: count


def _facts(directory: Path) -> dict[str, str]:
    """Return every file below a directory by what it says, without times."""
    facts = {}
    for path in sorted(directory.rglob("*")):
        name = str(path.relative_to(directory))
        if path.is_symlink():
            facts[name] = os.readlink(path)
        elif path.name == "metrics.jsonl":
            lines = [json.loads(line) for line in path.read_text().splitlines()]
            timed = ("tokens_per_second", "seconds", "ms_per_sentence", "sentences_per_second")
            kept = [
                {key: value for key, value in line.items() if key not in timed} for line in lines
            ]
            facts[name] = json.dumps(kept)
        elif path.name == "record.json":
            facts[name] = str({**json.loads(path.read_text()), "metrics": None})
        elif path.name in ("training.pt", "provenance.json", "out.json"):
            facts[name] = "there"  # they hold seconds
        elif path.is_file():
            facts[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return facts


if __name__ == "__main__":
    sys.exit(main())
