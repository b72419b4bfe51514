"""Kill Ray's workers and nodes, and interrupt the verb, while a corpus is translated.

    python tests/kill/ray_kills.py SOURCE.txt --output results/ray-kill.json

The file is translated alone, then with `--ray`: while workers are killed with SIGKILL, while a node
of a cluster of three is taken away, and with Ctrl-C in the middle, after which the same command
resumes. Every output must be that of the quiet run, byte for byte.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ray.cluster_utils import Cluster

from multistride.cpu import cpu_name
from multistride.version import __version__

PART = 256
"""Lines of a part: the work of one worker at a time."""


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("source", type=Path, help="texts, one a line")
    parser.add_argument("--lines", type=int, default=20_000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # heard also where a shell ignores it
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        with options.source.open("rb") as file:
            lines = [line for _, line in zip(range(options.lines), file, strict=False)]
        (place / "source").write_bytes(b"".join(lines))
        rows = list(_runs(place, options.workers))
    result = {
        "command": " ".join(["python", os.path.relpath(__file__), *sys.argv[1:]]),
        "multistride": __version__,
        "cpu": cpu_name(),
        "lines": len(lines),
        "lines_per_part": PART,
        "workers": options.workers,
        "runs": rows,
        "different": sum(not row["same"] for row in rows),
    }
    print(json.dumps(result, indent=2))
    if options.output:
        options.output.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    return 1 if result["different"] else 0


def _runs(place: Path, workers: int) -> Iterator[dict[str, Any]]:
    alone = _run(place, "alone", ["--threads", "1"])
    expected = _hash(place / "alone")
    yield {**alone, "same": True}
    on_ray = ["--ray", "local", "--workers", str(workers)]

    def compared(row: dict[str, Any]) -> dict[str, Any]:
        row["same"] = _hash(place / row["run"]) == expected
        row["left_behind"] = sorted(path.name for path in place.glob(f"*{row['run']}.*"))
        return row

    yield compared(_run(place, "quiet", on_ray))
    yield compared(_run(place, "workers killed", on_ray, _kill_workers))
    stopped = _run(place, "interrupted", on_ray, _interrupt)
    stopped["half_written"] = (place / "interrupted").exists()
    stopped["whole_parts"] = len(list((place / "interrupted.parts").glob("*.part")))
    yield compared({**_run(place, "interrupted", on_ray), "before": stopped})
    with _cluster() as (address, lose):
        on_cluster = ["--ray", address, "--workers", str(workers)]
        yield compared(_run(place, "node lost", on_cluster, lose))


def _run(
    place: Path,
    name: str,
    options: list[str],
    disturb: Callable[[subprocess.Popen[str], Path], int] | None = None,
) -> dict[str, Any]:
    """Translate, while somebody disturbs; return how it went."""
    verb = ["translate", "--engine", "int8", "--group-size", "4", "--buffer", str(PART)]
    files = ["--input", str(place / "source"), "--output", str(place / name)]
    command = [sys.executable, "-m", "multistride", *verb, *files, *options]
    began = time.monotonic()
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, start_new_session=True, **pipes) as p:
        disturbed = disturb(p, place / f"{name}.parts") if disturb else 0
        printed, log = p.communicate()
    row = {"run": name, "exit": p.returncode, "seconds": round(time.monotonic() - began, 1)}
    row |= {"disturbances": disturbed, "stdout": printed, "log": log.splitlines()[-8:]}
    print(json.dumps(row), file=sys.stderr)
    return row


def _hash(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else "missing"


def _wait_for_parts(process: subprocess.Popen[str], parts: Path, count: int) -> bool:
    """Wait until so many parts are there; False if the process ended before."""
    while len(list(parts.glob("*.part"))) < count:
        if process.poll() is not None:
            return False
        time.sleep(0.1)
    return True


def _kill_workers(process: subprocess.Popen[str], parts: Path) -> int:
    """Kill one worker after every ten parts."""
    killed, count = 0, 3
    while _wait_for_parts(process, parts, count):
        workers = _workers(process.pid)
        if workers:
            os.kill(workers[killed % len(workers)], signal.SIGKILL)
            killed += 1
        count += 10
    return killed


def _interrupt(process: subprocess.Popen[str], parts: Path) -> int:
    """Press Ctrl-C once, when some parts are done: a terminal sends it to the whole group."""
    if _wait_for_parts(process, parts, 10):
        os.killpg(process.pid, signal.SIGINT)
    return 1


def _workers(ancestor: int) -> list[int]:
    """Return the processes that have a model open and descend from a process."""
    parents, workers = {}, []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            status = (path / "stat").read_text(encoding="utf-8").rpartition(")")[2].split()
            title = (path / "cmdline").read_bytes()
        except OSError:
            continue
        parents[int(path.name)] = int(status[1])
        if title.startswith(b"ray::_Worker.do"):
            workers.append(int(path.name))

    def descends(number: int) -> bool:
        while number in parents:
            if number == ancestor:
                return True
            number = parents[number]
        return False

    return sorted(filter(descends, workers))


@contextmanager
def _cluster() -> Iterator[tuple[str, Callable[[subprocess.Popen[str], Path], int]]]:
    """A cluster of a head that does not work and two nodes, the first of which can be lost."""
    memory = {"object_store_memory": 128 << 20}
    cluster = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False, **memory}
    )
    first, _ = (cluster.add_node(num_cpus=1, **memory) for _ in range(2))

    def lose(process: subprocess.Popen[str], parts: Path) -> int:
        if _wait_for_parts(process, parts, 10):
            cluster.remove_node(first, allow_graceful=False)
        return 1

    try:
        yield cluster.address, lose
    finally:
        cluster.shutdown()


if __name__ == "__main__":
    sys.exit(main())
