"""Measure the peak memory of translating a file, beside CTranslate2 int8 with the same weights.

    python benchmarks/peak_memory.py MODEL SOURCE [--lines 64] [--batch-sizes 1 8 32] --output FILE

Every run is a new process that translates the first lines of SOURCE greedily on one thread: ours is
`multistride translate --engine int8`, whose weights in int8 lie in the cache as after any first
use; CTranslate2's reads a model that was stored in int8, gets token ids and imports nothing else.
Memory is the largest resident size (VmHWM) that the process reads of itself at its end.
"""

from __future__ import annotations

import argparse
import json
import logging
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from multistride.baselines.ctranslate2 import installed_version, save_ctranslate2
from multistride.cli.console import log_to_stderr
from multistride.cpu import cpu_name
from multistride.errors import UserError
from multistride.files import write_json
from multistride.model.weights import load_model

logger = logging.getLogger("multistride.benchmarks")

TELL = """
import atexit, sys
def tell():
    with open("/proc/self/status") as file:
        [size] = [line.split()[1] for line in file if line.startswith("VmHWM")]
    sys.stderr.write("VmHWM " + size)
atexit.register(tell)
"""

OURS = """
import os, runpy
leave = os._exit
os._exit = lambda status: (tell(), sys.stderr.flush(), leave(status))
runpy.run_module("multistride", run_name="__main__")
"""

RIVAL = """
import json, ctranslate2
translator = ctranslate2.Translator(
    sys.argv[1], device="cpu", compute_type="int8", inter_threads=1, intra_threads=1)
with open(sys.argv[2]) as file:
    for batch in json.load(file):
        limit = min(int(sys.argv[3]), 2 * max(map(len, batch)) + 10)
        translator.translate_batch(batch, beam_size=1, max_decoding_length=limit)
"""


def peak(program: str, *arguments: str) -> float:
    """Return the peak memory of a program, in megabytes (2**20 bytes)."""
    command = [sys.executable, "-c", TELL + program, *arguments]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    *_, size = ended.stderr.rpartition("VmHWM ")
    if ended.returncode or not size.isdigit():
        raise UserError(f"{' '.join(arguments)} ended with {ended.returncode}: {ended.stderr}")
    return int(size) / 1024


def measured(model: Path, lines: list[str], batch_size: int, runs: int) -> dict[str, float]:
    """Return the median peak of each program."""
    transformer, vocabulary = load_model(model)
    end, longest = str(transformer.config.end_token), str(transformer.config.max_positions)
    tokens = [[*map(str, each), end] for each in vocabulary.encode_source(lines)]
    batches = [tokens[row : row + batch_size] for row in range(0, len(tokens), batch_size)]
    ours = ["translate", "--model", str(model), "--engine", "int8", "--threads", "1"]
    found: dict[str, list[float]] = {"multistride": [], "ctranslate2": []}
    with tempfile.TemporaryDirectory() as place:
        source, ids, rival = (Path(place) / name for name in ("source", "ids", "rival"))
        source.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        ids.write_text(json.dumps(batches), encoding="utf-8")
        rival.mkdir()
        save_ctranslate2(transformer, rival, "int8")
        for _ in range(runs):
            size = ["--group-size", "4", "--batch-size", str(batch_size), "--input", str(source)]
            found["multistride"].append(peak(OURS, *ours, *size))
            found["ctranslate2"].append(peak(RIVAL, str(rival), str(ids), longest))
    return {name: round(statistics.median(each), 1) for name, each in found.items()}


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path)
    parser.add_argument("source", type=Path)
    parser.add_argument("--lines", type=int, default=64)
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--output", type=Path, required=True)
    given = parser.parse_args()
    log_to_stderr()
    with given.source.open(encoding="utf-8") as file:
        lines = [line.strip() for line in file][: given.lines]
    results = []
    for size in given.batch_sizes:
        megabytes = measured(given.model, lines, size, given.runs)
        times = megabytes["multistride"] / megabytes["ctranslate2"]
        metrics = {"batch_size": size, **megabytes, "times_ctranslate2": round(times, 2)}
        results.append({"name": f"batches of {size}", "metrics": metrics})
        logger.info(str(results[-1]))
    settings = {
        "lines": len(lines),
        "runs": given.runs,
        "threads": 1,
        "group_size": 4,
        "unit": "megabytes of 2**20 bytes",
        "ctranslate2": installed_version(),
        "cpu": cpu_name(),
    }
    record = {"name": "Peak memory, megabytes", "kind": "other", "settings": settings}
    write_json(given.output, {**record, "results": results})


if __name__ == "__main__":
    main()
