"""Time exact mode against K=1 under `--engine auto`: it should never be slower.

    python benchmarks/exact_pays.py SOURCE [--model DIRECTORY] [--batch-sizes 1 8 32] --output FILE

K=1 and exact mode translate the lines of SOURCE in turns, in chunks of 64 lines or of a few
batches; meanwhile exact mode learns where its drafts pay. Every text is checked to be that of K=1.
"""

from __future__ import annotations

import argparse
import logging
import statistics
import time
from pathlib import Path

from multistride.cli.console import log_to_stderr
from multistride.cpu import cpu_name
from multistride.device import set_threads
from multistride.errors import UserError
from multistride.files import sha256, write_json
from multistride.translator import Translator
from multistride.version import __version__

logger = logging.getLogger("multistride.benchmarks")

CHUNK, BATCHES = 64, 4
"""Least number of lines of a chunk, and of batches."""


def compared(model: Translator, lines: list[str], group_size: int, rows: int) -> dict[str, float]:
    """Return times as fast as K=1 in batches of `rows`: over all chunks, and in the median one."""
    ways = model.plan(1, batch_size=rows), model.plan(group_size, "exact", batch_size=rows)
    sources, width = model.encode(lines), max(CHUNK, BATCHES * rows)
    seconds: list[tuple[float, float]] = []
    for number, first in enumerate(range(0, len(sources), width)):
        chunk, taken = sources[first : first + width], [0.0, 0.0]
        texts: dict[int, list[list[int]]] = {}
        for way in (0, 1) if number % 2 else (1, 0):
            began = time.perf_counter()
            written = model.decoded(chunk, ways[way])
            taken[way] = time.perf_counter() - began
            texts[way] = [hypothesis.tokens for hypothesis in written]
        if texts[0] != texts[1]:
            raise UserError(f"a text in batches of {rows} is not that of K=1: please report this")
        seconds.append((taken[0], taken[1]))
    plain, exact = (sum(times) for times in zip(*seconds[1:], strict=True))  # the first warms up
    return {
        "batch_size": rows,
        "times_k1": round(plain / exact, 3),
        "times_k1_median": round(statistics.median(one / two for one, two in seconds[1:]), 3),
        "ms_per_sentence_k1": round(1000 * plain / (len(sources) - width), 3),
    }


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", type=Path)
    parser.add_argument("--model", type=Path, help="default: the model that ships")
    parser.add_argument("--group-size", type=int, default=4)
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--lines", type=int, default=1280)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--note", default="", help="what else the machine did")
    parser.add_argument("--output", type=Path, required=True)
    given = parser.parse_args()
    log_to_stderr()
    set_threads(given.threads)
    lines = given.source.read_text(encoding="utf-8").splitlines()[: given.lines]
    rows = []
    for size in given.batch_sizes:
        model = Translator.load(given.model, "cpu", "auto")  # nothing is learnt from other sizes
        metrics = compared(model, lines, given.group_size, size)
        logger.info(str(metrics))
        rows.append({"name": f"batches of {size}", "metrics": metrics})
    settings = {
        "model": "shipped" if given.model is None else given.model.name,
        "group_size": given.group_size,
        "source_sha256": sha256(given.source),
        "lines": len(lines),
        "threads": given.threads,
        "cpu": cpu_name(),
        "multistride": __version__,
        "note": given.note,
    }
    name = "Exact mode against K=1, engine auto"
    write_json(given.output, {"name": name, "kind": "other", "settings": settings, "results": rows})


if __name__ == "__main__":
    main()
