"""Compare `multistride serve` with llama-cpp-python's server, with the same SmolLM2, in turns.

    python benchmarks/serve_llama.py MODEL MODEL.gguf --python OTHER/bin/python \
        --output results/serve-smollm2.json

MODEL is the converted checkpoint, which we serve in int8; `--python` has llama-cpp-python with its
extra `server`. Both get one thread, write 48 tokens greedily after each prompt, and stream.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from serve_load import server

from multistride.cpu import cpu_name
from multistride.errors import UserError
from multistride.version import __version__

TOKENS = 48
PROMPTS = (
    "The history of the railway began",
    "Water boils when",
    "In the middle of the forest there was",
    "To bake bread you need",
    "The capital of France is",
    "A good teacher",
    "The sun rises in the east because",
    "When the war was over, the soldiers",
)
WAYS: dict[str, dict[str, Any]] = {
    "K=1": {"group_size": 1},
    "exact, K=4, drafts from the text": {"group_size": 4, "mode": "exact", "drafts": "text"},
}


@contextmanager
def llama(python: Path, model: Path) -> Iterator[str]:
    """Start llama-cpp-python's server; give its address."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [str(python), "-m", "llama_cpp.server", "--model", str(model), "--port", str(port)]
    command += ["--n_threads", "1", "--n_threads_batch", "1", "--n_ctx", "2048"]
    command += ["--interrupt_requests", "false"]  # else a new request cuts off the one before
    nowhere = subprocess.DEVNULL
    with subprocess.Popen(command, stdout=nowhere, stderr=nowhere) as process:
        try:
            while process.poll() is None:
                try:
                    socket.create_connection(("127.0.0.1", port), 1).close()
                    break
                except OSError:
                    time.sleep(0.2)
            if process.poll() is not None:
                raise UserError(f"{' '.join(command)} ended: run it by itself to see why")
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()


async def answered(url: str, body: dict[str, Any]) -> tuple[int, float, float]:
    """Return the tokens of an answer, and the seconds to its first event and its end."""
    host, port = url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    data = json.dumps({**body, "stream": True, "max_tokens": TOKENS, "temperature": 0}).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n"
    head += f"Content-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
    began, first, raw = time.perf_counter(), 0.0, b""
    writer.write(head.encode() + data)
    while chunk := await reader.read(1 << 16):
        raw += chunk
        if not first and b"data: {" in chunk:
            first = time.perf_counter() - began
    writer.close()
    events = [part.split(b"\n")[0].strip() for part in raw.split(b"data: ")[1:]]
    return sum(map(_tokens, events)), first, time.perf_counter() - began


def _tokens(event: bytes) -> int:
    """Return the tokens of an event: of llama's, one each but for the last."""
    if not event.startswith(b"{"):
        return 0
    found = json.loads(event)
    if "multistride" in found:
        return int(found["multistride"]["accepted"])
    return int(found["choices"][0].get("finish_reason") is None)


async def busy(url: str, body: dict[str, Any], clients: int, seconds: float) -> dict[str, Any]:
    """Return throughput and latencies with so many clients that never rest."""
    done: list[tuple[int, float, float]] = []
    began = time.perf_counter()

    async def one(number: int) -> None:
        while time.perf_counter() - began < seconds:
            prompt = PROMPTS[(number + len(done)) % len(PROMPTS)]
            done.append(await answered(url, {**body, "prompt": prompt}))

    await asyncio.gather(*map(one, range(clients)))
    taken = time.perf_counter() - began
    return {
        "requests": len(done),
        "tokens_per_second": sum(each[0] for each in done) / taken,
        "first_ms_p50": 1000 * statistics.median(each[1] for each in done),
        "whole_ms_p50": 1000 * statistics.median(each[2] for each in done),
    }


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("gguf", type=Path)
    parser.add_argument("--python", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    rows: dict[tuple[int, str], list[dict[str, Any]]] = {}
    ours = server(["--model", options.model, "--threads", "1", "--engine", "int8"])
    with ours as (url, _), llama(options.python, options.gguf) as theirs:
        ways = {name: (url, body) for name, body in WAYS.items()}
        ways["llama-cpp-python"] = theirs, {}
        for turn in range(options.rounds + 1):
            for clients in (1, 8, 32):
                for name, (where, body) in ways.items():
                    seconds = options.seconds if turn else 0.5
                    row = asyncio.run(busy(where, body, clients, seconds))
                    if turn:  # the first round warms up
                        rows.setdefault((clients, name), []).append(row)
                        print(clients, name, json.dumps(row), file=sys.stderr)
    result = {
        "command": " ".join(["python", os.path.relpath(__file__), *map(_named, sys.argv[1:])]),
        "multistride": __version__,
        "cpu": cpu_name(),
        "threads": 1,
        "tokens": TOKENS,
        "llama": options.gguf.name,
        "rows": [
            {
                "clients": clients,
                "way": name,
                **{key: round(statistics.median(row[key] for row in found), 2) for key in found[0]},
            }
            for (clients, name), found in rows.items()
        ],
    }
    print(json.dumps(result, indent=2))
    if options.output:
        options.output.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


def _named(argument: str) -> str:
    """Return an argument without the directories of this machine."""
    return Path(argument).name if argument.startswith("/") else argument


if __name__ == "__main__":
    main()
