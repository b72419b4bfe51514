"""Read mutated files with every reader of the package, and say what broke.

    python tests/fuzz/fuzz.py --seconds 60
    python tests/fuzz/fuzz.py --inputs 200000 --output results/fuzz.json

A reader may accept a file or refuse it with a one-line `UserError`. A traceback, more than 10
seconds of the processor (a minute of the clock) or a process above 1 GB is a fault: it is written
with its seed, which `--seed N --inputs 1` reads again. Exit code 1 if there is one.
"""

import argparse
import json
import multiprocessing
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

import logging  # noqa: E402

import torch  # noqa: E402
from mutate import mutated  # noqa: E402
from readers import Target, targets  # noqa: E402

from multistride.errors import UserError  # noqa: E402
from multistride.evaluate.bench.workers.memory import peak_mb  # noqa: E402

HANG_SECONDS, WAIT_SECONDS = 10, 60
"""Limits of a reader, in seconds of the processor and of the clock."""
MEMORY_MB = 1024


class Hang(BaseException):
    """A reader took too long."""


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=float("inf"))
    parser.add_argument("--inputs", type=int, default=0, help="0: no limit")
    parser.add_argument("--seed", type=int, default=0, help="number of the first input")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--only", default="", help="readers whose names begin so")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    if not options.inputs and options.seconds == float("inf"):
        parser.error("give --seconds or --inputs")
    share = -(-options.inputs // options.processes)
    jobs = [
        (options.seconds, share, options.seed + number * (share or 1 << 40), options.only)
        for number in range(options.processes)
    ]
    if len(jobs) == 1:
        result = fuzz(*jobs[0])
    else:
        with multiprocessing.get_context("spawn").Pool(len(jobs)) as pool:
            result = joined(pool.starmap(fuzz, jobs))
    result["command"] = " ".join(["python", os.path.relpath(__file__), *sys.argv[1:]])
    print(json.dumps(result, indent=2))
    if options.output:
        options.output.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    return 1 if result["faults"] else 0


def joined(results: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the results of several processes as one."""
    summed = ("inputs", "tracebacks", "hangs")
    largest = ("seconds", "slowest_seconds", "peak_memory_mb")
    outcomes: Counter[str] = Counter()
    for result in results:
        outcomes.update(result["outcomes"])
    return {
        "processes": len(results),
        **{name: sum(result[name] for result in results) for name in summed},
        **{name: max(result[name] for result in results) for name in largest},
        "outcomes": dict(sorted(outcomes.items())),
        "faults": [fault for result in results for fault in result["faults"]],
    }


def fuzz(seconds: float, inputs: int, first: int = 0, only: str = "") -> dict[str, Any]:
    """Return counts and faults over mutated inputs, until either limit is reached."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    for kind in (signal.SIGALRM, signal.SIGPROF):
        signal.signal(kind, _hang)
    began, count, slowest = time.monotonic(), 0, 0.0
    outcomes: Counter[str] = Counter()
    faults: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory() as place:
        chosen = [
            target
            for target in targets(Path(place))
            if target.name.startswith(only)
            for _ in range(target.weight)
        ]
        began = time.monotonic()
        while time.monotonic() - began < seconds and (not inputs or count < inputs):
            seed = first + count
            chance = random.Random(seed)
            target = chance.choice(chosen)
            started = time.monotonic()
            outcome, fault = one(target, Path(place) / "now", chance)
            taken = time.monotonic() - started
            slowest = max(slowest, taken)
            count += 1
            outcomes[f"{target.name}: {outcome}"] += 1
            if fault and len(faults) < 50:
                faults.append({"seed": seed, "reader": target.name, "fault": fault})
    # Not `ru_maxrss`: it keeps the size of the process that started this one.
    peak = int(peak_mb() or 0)
    if peak > MEMORY_MB:
        faults.append({"seed": first, "reader": "all", "fault": f"{peak} MB of memory"})
    return {
        "inputs": count,
        "first_seed": first,
        "seconds": round(time.monotonic() - began, 1),
        "tracebacks": sum(n for name, n in outcomes.items() if name.endswith(": traceback")),
        "hangs": sum(n for name, n in outcomes.items() if name.endswith(": hang")),
        "slowest_seconds": round(slowest, 2),
        "peak_memory_mb": peak,
        "outcomes": dict(sorted(outcomes.items())),
        "faults": faults,
    }


def one(target: Target, place: Path, chance: random.Random) -> tuple[str, str]:
    """Read one mutated input; return the outcome, and the fault if it is one."""
    place = place / target.name
    if target.writes:
        shutil.rmtree(place, ignore_errors=True)
    if not place.exists():
        shutil.copytree(target.directory, place, symlinks=True)
    name = chance.choice(target.files)
    good = (place / name).read_bytes()
    (place / name).write_bytes(mutated(good, name, chance))
    signal.setitimer(signal.ITIMER_PROF, HANG_SECONDS)
    signal.alarm(WAIT_SECONDS)
    try:
        target.read(place)
    except UserError as error:
        if "\n" in str(error):
            return "traceback", f"more than one line: {error!r}"[:500]
        return "refused", ""
    except Hang:
        return "hang", f"more than {HANG_SECONDS} seconds with {name}"
    except KeyboardInterrupt:
        raise
    except BaseException:  # a panic of a Rust library is no Exception
        lines = traceback.format_exc().strip().splitlines()
        return "traceback", " | ".join([name, *lines[-7:]])[:900]
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.alarm(0)
        if not target.writes:
            (place / name).write_bytes(good)
    return "accepted", ""


def _hang(number: int, frame: object) -> None:
    raise Hang


if __name__ == "__main__":
    sys.exit(main())
