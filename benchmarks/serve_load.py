"""Put load on `multistride serve`: throughput, latency, answers equal to a request alone, memory.

    python benchmarks/serve_load.py throughput SOURCE.txt --output results/serve-throughput.json
    python benchmarks/serve_load.py streams SOURCE.txt --output results/serve-streams.json
    python benchmarks/serve_load.py memory SOURCE.txt --count 20000 --output serve-memory.json

The server is a process of its own on a free port of this machine; the clients are coroutines of
this process, so they share its cores. `throughput` keeps 1, 8, 32 and 64 clients busy, who ask
for one translation after the other, at every group size, in turns. `streams` opens 1,000 streams at
once, of mixed modes, group sizes and lengths, and compares every answer with `translate` of the
same text alone. `memory` sends many requests, as `--count` says, and looks at the size of the
server's processes.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any

from multistride.cpu import cpu_name
from multistride.translator import Translator
from multistride.version import __version__

CLIENTS = (1, 8, 32, 64)
WAYS: tuple[dict[str, Any], ...] = (
    {"group_size": 1},
    {"group_size": 2},
    {"group_size": 4},
    {"group_size": 8},
    {"group_size": 4, "mode": "exact"},
    {"group_size": 8, "mode": "exact"},
    {"group_size": 4, "mode": "adaptive", "threshold": 0.5},
    {"group_size": 4, "max_tokens": 7},
)


@contextmanager
def server(
    options: Sequence[str], *, script: str | None = None, source: Path | None = None
) -> Iterator[tuple[str, int]]:
    """Start a server, or that of a `script` beside this one; give its address and process id.

    `source` is another checkout's `src`, whose server is started.
    """
    ours = ["-m", "multistride", "serve", "--port", "0"]
    theirs = [] if script is None else [str(Path(__file__).parent / script)]
    command = [sys.executable, *(theirs or ours), *options]
    environment = {**os.environ, **({"PYTHONPATH": str(source)} if source else {})}
    with (
        tempfile.NamedTemporaryFile("r", encoding="utf-8") as log,
        open(log.name, "w", encoding="utf-8") as written,
        subprocess.Popen(command, stderr=written, env=environment) as process,
    ):
        try:
            yield _address(process, log), process.pid
        except Exception:
            print("".join(log.readlines()[-30:]), file=sys.stderr)
            raise
        finally:
            process.terminate()


def _address(process: subprocess.Popen[bytes], log: IO[str]) -> str:
    while process.poll() is None:
        if (line := log.readline()).startswith("serving"):
            return line.split()[-1]
        time.sleep(0.05)
    raise SystemExit("the server did not start")


class Client:
    """One connection that is kept: plain HTTP/1.1, so that clients cost the machine little."""

    def __init__(self, url: str) -> None:
        self._host, port = url.removeprefix("http://").split(":")
        self._port = int(port)
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def stream(self, body: dict[str, Any]) -> tuple[str, int, float, float]:
        """Return the text, the tokens, and the seconds to the first group and to the end."""
        began, first, text, tokens = time.perf_counter(), 0.0, "", 0
        reader, _ = await self._ask("/v1/completions", {**body, "stream": True})
        while size := int(await reader.readuntil(b"\r\n"), 16):
            chunk = await reader.readexactly(size + 2)
            for line in chunk.split(b"\n\n"):  # events that are ready together come together
                if not line.startswith(b"data: {"):
                    continue
                first = first or time.perf_counter() - began
                event = json.loads(line[6:])
                text += event["choices"][0]["text"]
                tokens += event["multistride"]["accepted"]
        await reader.readexactly(2)
        return text, tokens, first, time.perf_counter() - began

    async def post(self, path: str, body: dict[str, Any]) -> bytes:
        """Return the body of an answer that says how long it is."""
        reader, head = await self._ask(path, body)
        fields = (line.partition(b":") for line in head.lower().split(b"\r\n"))
        size = next(int(value) for name, _, value in fields if name == b"content-length")
        return await reader.readexactly(size)

    async def _ask(self, path: str, body: dict[str, Any]) -> tuple[asyncio.StreamReader, bytes]:
        """Send a request; return what to read its answer from, and the head of that."""
        if self._streams is None:
            self._streams = await asyncio.open_connection(self._host, self._port)
        reader, writer = self._streams
        data = json.dumps(body).encode()
        head = f"POST {path} HTTP/1.1\r\nHost: {self._host}\r\nContent-Type: application/json\r\n"
        writer.write(f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data)
        answer = await reader.readuntil(b"\r\n\r\n")
        if not answer.startswith(b"HTTP/1.1 200"):
            raise SystemExit(answer.decode())
        return reader, answer

    def close(self) -> None:
        """Close the connection."""
        if self._streams is not None:
            self._streams[1].close()


async def busy(
    place: tuple[str, int], texts: Sequence[str], clients: int, way: dict[str, Any], seconds: float
) -> dict[str, Any]:
    """Return throughput and latencies with so many clients that never rest.

    `place` is the address of a server and its process, whose work is measured too.
    """
    url, pid = place
    done: list[tuple[str, int, float, float]] = []
    ends = time.perf_counter() + seconds

    async def one(number: int) -> None:
        chance, client = random.Random(number), Client(url)
        while time.perf_counter() < ends:
            done.append(await client.stream({"prompt": chance.choice(texts), **way}))
        client.close()

    began, work = time.perf_counter(), sum(_worked(pid))
    await asyncio.gather(*(one(number) for number in range(clients)))
    taken = time.perf_counter() - began
    return {
        "clients": clients,
        "group_size": way.get("group_size", "auto"),
        "requests": len(done),
        "tokens_per_second": sum(each[1] for each in done) / taken,
        "server_cpu_ms_per_request": 1000 * (sum(_worked(pid)) - work) / len(done),
        **_times("first", [each[2] for each in done]),
        **_times("whole", [each[3] for each in done]),
    }


def _times(name: str, seconds: Sequence[float]) -> dict[str, float]:
    ordered = sorted(seconds)
    return {
        f"{name}_ms_p50": 1000 * statistics.median(ordered),
        f"{name}_ms_p95": 1000 * ordered[min(len(ordered) - 1, int(0.95 * len(ordered)))],
    }


def throughput(options: argparse.Namespace, texts: list[str]) -> dict[str, Any]:
    """Measure every number of clients at every group size, in turns."""
    ways: dict[str, tuple[tuple[str, int], int | str]] = {}
    rows: dict[tuple[int, str], list[dict[str, Any]]] = {}
    threads = ["--threads", str(options.threads)]
    with ExitStack() as servers:
        own = server([*_model(options), *threads, "--engine", options.engine])
        place = servers.enter_context(own)
        ways |= {str(size): (place, size) for size in (1, 4, 8, "auto")}
        if options.against:
            model = [options.model] if options.model else []
            other = server([*model, *threads], script="serve_ctranslate2.py")
            ways["ctranslate2"] = servers.enter_context(other), 1
        if options.before:
            earlier = [*_model(options), *threads, "--engine", options.engine]
            place = servers.enter_context(server(earlier, source=options.before))
            ways |= {f"before, {size}": (place, size) for size in (1, 4, 8)}
        chosen = options.ways.split(";") if options.ways else list(ways)
        for turn in range(options.rounds + 1):
            for clients in options.clients:
                for name in chosen:
                    place, size = ways[name]
                    seconds = options.seconds if turn else 1.0
                    row = asyncio.run(busy(place, texts, clients, {"group_size": size}, seconds))
                    row["way"] = name
                    if turn:  # the first round warms up
                        rows.setdefault((clients, name), []).append(row)
                        print(json.dumps(row), file=sys.stderr)
    return {"rows": [_median(found) for found in rows.values()]}


def _median(rows: list[dict[str, Any]]) -> dict[str, Any]:
    first = rows[0]
    return {
        name: value
        if isinstance(value, int | str)
        else round(statistics.median(row[name] for row in rows), 2)
        for name, value in first.items()
    }


def streams(options: argparse.Namespace, texts: list[str]) -> dict[str, Any]:
    """Open many streams at once while /health is asked; compare every answer."""
    chance = random.Random(5)
    jobs = [(chance.choice(texts), WAYS[number % len(WAYS)]) for number in range(options.count)]
    with server(
        [*_model(options), "--threads", str(options.threads), "--engine", options.engine]
    ) as (url, _):
        answers, health = asyncio.run(_crowd(url, jobs))
    model = Translator.load(options.model, engine=options.engine)
    different = lost = 0
    for (text, way), answer in zip(jobs, answers, strict=True):
        [alone] = model.translate([text], **way)
        different += answer != alone.text
        lost += answer is None
    return {
        "streams": len(jobs),
        "lost": lost,
        "different_from_alone": different,
        "health_ms_p50": 1000 * statistics.median(health),
        "health_ms_p99": 1000 * sorted(health)[int(0.99 * len(health))],
        "health_requests": len(health),
    }


async def _crowd(
    url: str, jobs: Sequence[tuple[str, dict[str, Any]]]
) -> tuple[list[str | None], list[float]]:
    clients = [Client(url) for _ in jobs]
    tasks = [
        asyncio.ensure_future(client.stream({"prompt": text, **way}))
        for client, (text, way) in zip(clients, jobs, strict=True)
    ]
    watch = subprocess.Popen(  # in a process of its own: this one is busy reading streams
        [sys.executable, "-c", _WATCH, url], stdout=subprocess.PIPE, text=True
    )
    answers = await asyncio.gather(*tasks, return_exceptions=True)
    watch.terminate()
    assert watch.stdout is not None
    health = [float(line) for line in watch.stdout.read().splitlines()]
    watch.stdout.close()
    watch.wait()
    for client in clients:
        client.close()
    return [None if isinstance(each, BaseException) else each[0] for each in answers], health


_WATCH = """
import sys, time, httpx
with httpx.Client(base_url=sys.argv[1], timeout=60) as client:
    while True:
        began = time.perf_counter()
        client.get("/health")
        print(time.perf_counter() - began, flush=True)
        time.sleep(0.02)
"""


def memory(options: argparse.Namespace, texts: list[str]) -> dict[str, Any]:
    """Send many requests and measure the memory of the server's processes meanwhile."""
    sizes: dict[int, list[float]] = {}

    async def ask(url: str, pid: int) -> None:
        count = 0

        async def one(number: int) -> None:
            nonlocal count
            chance, client = random.Random(number), Client(url)
            while count < options.count:
                count += 1
                mine = count
                body = {"text": chance.choice(texts), **WAYS[mine % len(WAYS)]}
                await client.post("/v1/translate", body)
                if mine % max(1, options.count // 20) == 0:
                    sizes[mine] = [round(each, 1) for each in _resident(pid)]
            client.close()

        await asyncio.gather(*(one(number) for number in range(32)))

    began = time.perf_counter()
    with server(
        [*_model(options), "--threads", str(options.threads), "--engine", options.engine]
    ) as (url, pid):
        asyncio.run(ask(url, pid))
    sums = {count: round(sum(each), 1) for count, each in sorted(sizes.items())}
    settled = list(sums.values())[len(sums) // 10 :]
    return {
        "requests": options.count,
        "seconds": round(time.perf_counter() - began),
        "processes": len(next(iter(sizes.values()))),
        "growth_mb_after_a_tenth": round(max(settled) - settled[0], 1),
        "resident_mb": sums,
        "resident_mb_by_process": dict(sorted(sizes.items())),
    }


def _resident(pid: int) -> list[float]:
    """Return the megabytes of a server's processes; pages that they share count in parts."""
    sizes = []
    for each in _family(pid):
        try:
            text, name = Path(f"/proc/{each}/smaps_rollup").read_text(encoding="utf-8"), "Pss:"
        except OSError:  # not all systems show it: then shared pages count in every process
            text, name = Path(f"/proc/{each}/status").read_text(encoding="utf-8"), "VmRSS:"
        line = next(line for line in text.splitlines() if line.startswith(name))
        sizes.append(int(line.split()[1]) / 1024)
    return sizes


def _worked(pid: int) -> list[float]:
    """Return the seconds that a server's processes have computed."""
    seconds = []
    for each in _family(pid):
        fields = Path(f"/proc/{each}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        seconds.append((int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK"))
    return seconds


def _family(pid: int) -> list[int]:
    """Return a process and all below it."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="utf-8").split()
    return [pid, *(each for child in children for each in _family(int(child)))]


def _model(options: argparse.Namespace) -> list[str]:
    return ["--model", options.model] if options.model else []


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("what", choices=("throughput", "streams", "memory"))
    parser.add_argument("source", type=Path, help="texts, one a line")
    parser.add_argument("--model", help="default: the model that ships")
    parser.add_argument("--engine", default="int8")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=5.0, help="of one row in one round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--count", type=int, default=1000, help="streams, or requests")
    parser.add_argument(
        "--against", action="store_true", help="throughput: CTranslate2 int8 at K=1 too"
    )
    parser.add_argument(
        "--before", type=Path, help="throughput: the src of an earlier checkout, measured too"
    )
    parser.add_argument(
        "--clients", type=int, nargs="+", default=CLIENTS, help="throughput: clients at once"
    )
    parser.add_argument("--ways", help="throughput: some ways only, such as '4;8;before, 4'")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    texts = [
        line for line in options.source.read_text(encoding="utf-8").splitlines() if line.strip()
    ]
    run = {"throughput": throughput, "streams": streams, "memory": memory}[options.what]
    result = {
        "command": " ".join(["python", os.path.relpath(__file__), *sys.argv[1:]]),
        "multistride": __version__,
        "cpu": cpu_name(),
        "cores": os.cpu_count(),
        "engine": options.engine,
        "threads": options.threads,
        "texts": len(texts),
        **run(options, texts[:2000]),
    }
    print(json.dumps(result, indent=2))
    if options.output:
        options.output.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
