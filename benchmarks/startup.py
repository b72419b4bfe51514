"""Measure how soon `multistride translate` writes its first translation, and its peak memory.

    python benchmarks/startup.py [--engine eager,int8] [--runs 5] [--output FILE]

Every run is a new process that translates one line with the model that ships, as a person at a
terminal would start it; engines take turns. The files it reads are warm in the system's cache
unless `--drop-caches` empties it before every run (root only). Memory is the largest resident size
that the kernel reports for the process (wait4).
"""

from __future__ import annotations

import argparse
import logging
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from multistride.cli.console import log_to_stderr, words
from multistride.cpu import cpu_name
from multistride.errors import UserError
from multistride.files import write_json

logger = logging.getLogger("multistride.benchmarks")

LINE = b"I have never seen such a beautiful garden.\n"


def one_run(engine: str, group_size: int, threads: int) -> tuple[float, float]:
    """Return seconds to the end of the first translated line, and peak megabytes (2**20 bytes)."""
    command = [
        sys.executable,
        "-m",
        "multistride",
        "translate",
        "--engine",
        engine,
        "--group-size",
        str(group_size),
    ]
    began = time.perf_counter()
    process = subprocess.Popen(
        [*command, "--threads", str(threads)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    with process.stdin, process.stdout, process.stderr:
        process.stdin.write(LINE)
        process.stdin.close()
        first = process.stdout.readline()
        seconds = time.perf_counter() - began
        errors = process.stderr.read().decode()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode or not first.strip():
        raise UserError(f"{' '.join(command)} ended with {process.returncode}: {errors.strip()}")
    return seconds, usage.ru_maxrss / 1024


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--engine", default="eager,int8")
    parser.add_argument("--group-size", type=int, default=4)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--drop-caches", action="store_true")
    parser.add_argument("--output", type=Path)
    given = parser.parse_args()
    log_to_stderr()
    found: dict[str, list[tuple[float, float]]] = {engine: [] for engine in words(given.engine)}
    for _ in range(given.runs):
        for engine, runs in found.items():
            if given.drop_caches:
                os.sync()
                Path("/proc/sys/vm/drop_caches").write_text("3")
            runs.append(one_run(engine, given.group_size, given.threads))
            logger.info(f"{engine}: {runs[-1][0]:.2f} s, {runs[-1][1]:.0f} MB")
    rows: list[dict[str, Any]] = [
        {
            "engine": engine,
            "seconds": round(statistics.median(seconds for seconds, _ in runs), 3),
            "seconds_spread": [
                round(edge(seconds for seconds, _ in runs), 3) for edge in (min, max)
            ],
            "memory_peak_mb": round(max(size for _, size in runs), 1),
        }
        for engine, runs in found.items()
    ]
    caches = "emptied before every run" if given.drop_caches else "warm"
    settings = {
        "runs": given.runs,
        "threads": given.threads,
        "group_size": given.group_size,
        "caches": caches,
    }
    if given.output:
        write_json(given.output, {"settings": {**settings, "cpu": cpu_name()}, "startups": rows})


if __name__ == "__main__":
    main()
