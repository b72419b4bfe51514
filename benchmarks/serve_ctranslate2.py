"""Serve CTranslate2 int8 as simply as possible: the rival of `serve_load.py throughput --against`.

    python benchmarks/serve_ctranslate2.py [MODEL] --threads 1

It has the same weights at K=1, the same web server and the same shape of events. All waiting
requests are translated in one batch, then the next; an answer is one event, since CTranslate2 hands
out no part of a batch.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import threading
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import StreamingResponse

from multistride.baselines.ctranslate2 import CTranslate2Engine
from multistride.decode.options import DecodeOptions
from multistride.serve.server import bound
from multistride.translator import Translator

LARGEST_BATCH = 64


class Batches:
    """A thread that translates what waits, in batches."""

    def __init__(self, model: Translator, threads: int) -> None:
        self._model, self._limit = model, DecodeOptions()
        self._engine = CTranslate2Engine(model.engine.model, threads=threads)
        self._waiting: list[tuple[list[int], asyncio.Future[list[int]]]] = []
        self._changed = threading.Condition()
        threading.Thread(target=self._run, daemon=True).start()

    async def translate(self, text: str) -> tuple[str, int]:
        """Return a translation and the number of its tokens, EOS included."""
        [source] = self._model.encode([text])
        answer: asyncio.Future[list[int]] = asyncio.get_running_loop().create_future()
        with self._changed:
            self._waiting.append((source, answer))
            self._changed.notify()
        tokens = await answer
        end = self._model.config.end_token
        [written] = self._model.vocabulary.decode_all([[each for each in tokens if each != end]])
        return written, len(tokens)

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._waiting:
                    self._changed.wait()
                batch = self._waiting[:LARGEST_BATCH]
                del self._waiting[:LARGEST_BATCH]
            longest = max(len(source) for source, _ in batch) + 1
            limit = self._limit.limit(longest, self._model.config)
            answers = self._engine.greedy([source for source, _ in batch], limit)
            for (_, future), tokens in zip(batch, answers, strict=True):
                future.get_loop().call_soon_threadsafe(future.set_result, tokens)


def application(batches: Batches) -> FastAPI:
    """Return the application: one route, one event an answer."""
    app = FastAPI()

    @app.post("/v1/completions")
    async def completions(request: Request) -> StreamingResponse:
        body: dict[str, Any] = await request.json()

        async def events() -> Any:
            text, tokens = await batches.translate(body["prompt"])
            event = {"choices": [{"text": text}], "multistride": {"accepted": tokens}}
            yield f"data: {json.dumps(event)}\n\n"
            yield "data: [DONE]\n\n"

        return StreamingResponse(events(), media_type="text/event-stream")

    return app


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model", nargs="?", type=Path, help="default: the model that ships")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    batches = Batches(Translator.load(options.model, engine="eager"), options.threads)
    with bound("127.0.0.1", 0) as listening:
        host, port = listening.getsockname()
        print(f"serving ctranslate2 on http://{host}:{port}", file=sys.stderr, flush=True)
        config = uvicorn.Config(application(batches), log_config=None, access_log=False)
        uvicorn.Server(config).run(sockets=[listening])


if __name__ == "__main__":
    main()
