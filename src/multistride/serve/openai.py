"""OpenAI's routes: completions, chat completions and the list of models."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import orjson
from fastapi import APIRouter, Request
from fastapi.responses import Response
from starlette.types import Receive, Scope, Send

from multistride.errors import UserError
from multistride.serve.errors import DOCUMENTED, HttpProblem, of_user_error
from multistride.serve.protocol import ChatRequest, CompletionRequest, Streaming
from multistride.serve.scheduler import Ticket
from multistride.serve.served import Served, ServedModel
from multistride.serve.writing import (
    Answer,
    Part,
    Usage,
    Writing,
    fresh_name,
    now,
    until_gone,
    whole,
)

logger = logging.getLogger(__name__)

HEADERS = (
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
)
"""Of event streams: nobody in between may hold events back."""

DONE = b"data: [DONE]\n\n"
"""The last event of a stream that did not fail."""

STREAMED: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The whole answer, or with `stream` one event per committed group.",
        "content": {"application/json": {"schema": {"type": "object"}}, "text/event-stream": {}},
    }
}
"""Responses of the OpenAPI schema."""


@dataclass(frozen=True)
class Shape:
    """The differences between the two routes: names of objects, where texts and numbers stand."""

    prefix: str
    whole: str
    chunk: str
    chat: bool

    def choice(self, index: int, answer: Answer, logprobs: bool, offset: int = 0) -> dict[str, Any]:
        """Return one entry of `choices` of a whole answer."""
        values = (
            self._logprobs(answer.pieces, answer.log_probabilities, offset) if logprobs else None
        )
        base = {"index": index, "logprobs": values, "finish_reason": answer.finish_reason}
        if self.chat:
            return {
                **base,
                "message": {"role": "assistant", "content": answer.text, "refusal": None},
            }
        return {**base, "text": answer.text}

    def delta(
        self, index: int, part: Part, logprobs: bool, offset: int, first: bool
    ) -> dict[str, Any]:
        """Return one entry of `choices` of an event."""
        values = self._logprobs(part.pieces, part.log_probabilities, offset) if logprobs else None
        base = {"index": index, "logprobs": values, "finish_reason": part.finish_reason}
        if self.chat:
            role = {"role": "assistant"} if first else {}
            return {**base, "delta": {**role, "content": part.text}}
        return {**base, "text": part.text}

    def _logprobs(self, pieces: Any, values: Any, offset: int) -> dict[str, Any]:
        rounded = [round(value, 6) for value in values]
        if self.chat:
            return {
                "content": [
                    {
                        "token": piece,
                        "logprob": value,
                        "bytes": list(piece.encode("utf-8")),
                        "top_logprobs": [],
                    }
                    for piece, value in zip(pieces, rounded, strict=True)
                ],
                "refusal": None,
            }
        offsets, place = [], offset
        for piece in pieces:
            offsets.append(place)
            place += len(piece)
        return {
            "tokens": list(pieces),
            "token_logprobs": rounded,
            "top_logprobs": None,
            "text_offset": offsets,
        }


COMPLETION = Shape("cmpl", "text_completion", "text_completion", chat=False)
CHAT = Shape("chatcmpl", "chat.completion", "chat.completion.chunk", chat=True)


def router(served: Served) -> APIRouter:
    """Return the routes over the served models."""
    routes = APIRouter(prefix="/v1", tags=["OpenAI"], responses=DOCUMENTED)

    @routes.get("/models")
    async def models() -> dict[str, Any]:
        """List the served models."""
        return {"object": "list", "data": [model.card() for model in served.models.values()]}

    @routes.get("/models/{name:path}")
    async def model(name: str) -> dict[str, Any]:
        """Describe one served model."""
        return served.model(name).card()

    @routes.post("/completions", responses=STREAMED)
    async def completions(body: CompletionRequest, request: Request) -> Response:
        """Continue prompts, or translate texts with a translation model."""
        model = served.model(body.model)
        choices = _choices(body, body.max_tokens)
        encoded = await _encoded(model, body.prompts())
        asked = Asked(COMPLETION, model, body, choices, body.logprobs is not None)
        return await _answer(request, asked, encoded)

    @routes.post("/chat/completions", responses=STREAMED)
    async def chat(body: ChatRequest, request: Request) -> Response:
        """Answer a conversation with a chat model."""
        model = served.model(body.model)
        if None not in (body.max_tokens, body.max_completion_tokens):
            raise HttpProblem(
                400, "max_tokens and max_completion_tokens were given: give one", "max_tokens"
            )
        choices = _choices(body, body.max_completion_tokens or body.max_tokens)
        encoded = [await model.encode_chat([message.turn() for message in body.messages])]
        return await _answer(request, Asked(CHAT, model, body, choices, body.logprobs), encoded)

    return routes


async def _encoded(model: ServedModel, prompts: list[str | list[int]]) -> list[list[int]]:
    """Return the tokens of prompts. Raises `HttpProblem`, which names the one of several."""
    encoded = []
    for index, prompt in enumerate(prompts):
        try:
            encoded.append(
                await model.encode(prompt)
                if isinstance(prompt, str)
                else model.checked_tokens(prompt)
            )
        except (HttpProblem, UserError) as error:
            problem = of_user_error(error) if isinstance(error, UserError) else error
            raise (problem if len(prompts) == 1 else problem.of_prompt(index)) from error
    return encoded


def _choices(body: Streaming, max_tokens: int | None) -> dict[str, Any]:
    chosen = body.choices()
    return chosen if max_tokens is None else {**chosen, "max_tokens": max_tokens}


@dataclass
class Asked:
    """One request of either route: its model, its body, and what its body says."""

    shape: Shape
    model: ServedModel
    body: Streaming
    choices: dict[str, Any]
    logprobs: bool
    usage: Usage = field(default_factory=Usage)

    def check(self) -> None:
        """Raise `HttpProblem` for fields that have no meaning together."""
        if self.body.stream_options is not None and not self.body.stream:
            raise HttpProblem(
                400,
                "stream_options was given without stream: set stream, or leave it out",
                "stream_options",
            )
        if self.body.n > 1 and not self.choices.get("temperature"):
            raise HttpProblem(
                400,
                f"n {self.body.n} was given at temperature 0, where all texts are the same: "
                "set a temperature above 0, or leave n out",
                "n",
            )

    def head(self) -> dict[str, Any]:
        """Return the fields that all objects of an answer begin with."""
        name = f"{self.shape.prefix}-{fresh_name()}"
        return {"id": name, "created": now(), "model": self.model.name}

    def lots(self, ticket: Ticket) -> AsyncIterator[list[Part]]:
        """Return the parts of one completion as they are committed."""
        by_token = self.body.stream_granularity == "token"
        stops = self.choices.get("stop", ())
        return Writing(self.model.model, stops, self.usage, by_token).lots(ticket)

    def submit(self, encoded: list[list[int]], name: str) -> list[Ticket]:
        """Queue `n` requests for each prompt, each with a seed of its own; all of them or none."""
        self.model.check_room(len(encoded) * self.body.n)
        self.usage.prompt = sum(map(len, encoded))
        tickets: list[Ticket] = []
        try:
            for tokens in encoded:
                for copy in range(self.body.n):
                    seed = self.choices.get("seed", 0) + copy
                    chosen = {**self.choices, "seed": seed} if seed else self.choices
                    whole = not self.body.stream
                    tickets.append(self.model.submit(tokens, chosen, name, whole))
        except BaseException:
            _cancel(tickets)
            raise
        return tickets


def _cancel(tickets: list[Ticket]) -> None:
    for ticket in tickets:
        ticket.cancel()


async def _answer(request: Request, asked: Asked, encoded: list[list[int]]) -> Response:
    """Answer with one object, or with events."""
    asked.check()
    tickets = asked.submit(encoded, request.state.id)
    if asked.body.stream:
        return EventStream(_events(asked, tickets), partial(_cancel, tickets))
    stops = asked.choices.get("stop", ())
    work = asyncio.gather(*(whole(asked.model.model, each, stops, asked.usage) for each in tickets))
    try:
        answers = await until_gone(request, work)
    finally:
        _cancel(tickets)
    choices = [
        asked.shape.choice(index, each, asked.logprobs) for index, each in enumerate(answers)
    ]
    result = {
        **asked.head(),
        "object": asked.shape.whole,
        "choices": choices,
        "usage": asked.usage.object(),
        "multistride": {
            "steps": [len(answer.steps) for answer in answers],
            "trace": [answer.steps for answer in answers],
        },
    }
    return Response(orjson.dumps(result), media_type="application/json")


async def _events(asked: Asked, tickets: list[Ticket]) -> AsyncGenerator[bytes, None]:
    """Yield server-sent events, all that are ready at once.

    Events of several completions come in turn, as their groups are committed.
    """
    base = {**asked.head(), "object": asked.shape.chunk}
    offsets, begun, running = [0] * len(tickets), set[int](), len(tickets)
    try:
        async for index, lot in _merged(asked, tickets):
            events = b""
            for part in lot:
                choice = asked.shape.delta(
                    index, part, asked.logprobs, offsets[index], index not in begun
                )
                begun.add(index)
                offsets[index] += sum(map(len, part.pieces))
                events += _event({**base, "choices": [choice], "multistride": part.step})
                running -= part.finish_reason is not None
            if running:
                yield events
            else:
                yield events + _last(asked, base)
    except HttpProblem as problem:
        yield _event(problem.body())
    except Exception:
        logger.exception("a stream failed")
        failure = HttpProblem(500, "the server failed on this request", code="internal")
        yield _event(failure.body())
    finally:
        _cancel(tickets)


def _last(asked: Asked, base: dict[str, Any]) -> bytes:
    """Return the events behind the last text: the usage, if it was asked for, and the end."""
    options = asked.body.stream_options
    if options is None or not options.include_usage:
        return DONE
    return _event({**base, "choices": [], "usage": asked.usage.object()}) + DONE


async def _merged(asked: Asked, tickets: list[Ticket]) -> AsyncIterator[tuple[int, list[Part]]]:
    """Yield the parts of several completions, with the index of each, as they come."""
    if len(tickets) == 1:  # most requests: no task and no queue in between
        async for lot in asked.lots(tickets[0]):
            yield 0, lot
        return
    queue: asyncio.Queue[tuple[int, list[Part] | Exception | None]] = asyncio.Queue()

    async def pump(index: int, ticket: Ticket) -> None:
        end: Exception | None = None
        try:
            async for lot in asked.lots(ticket):
                queue.put_nowait((index, lot))
        except Exception as error:  # is raised where it is waited for
            end = error
        queue.put_nowait((index, end))

    pumps = [asyncio.create_task(pump(index, ticket)) for index, ticket in enumerate(tickets)]
    running = len(pumps)
    try:
        while running:
            index, item = await queue.get()
            if isinstance(item, Exception):
                raise item
            if item is None:
                running -= 1
            else:
                yield index, item
    finally:
        for task in pumps:
            task.cancel()


class EventStream(Response):
    """Server-sent events; `gone` is called when the client leaves, and must end the events.

    Starlette's own response starts a group of tasks for every stream, which costs more than most
    answers.
    """

    media_type = "text/event-stream"

    def __init__(self, events: AsyncGenerator[bytes, None], gone: Callable[[], None]) -> None:
        self.status_code, self.background, self.body = 200, None, b""
        self.raw_headers = list(HEADERS)
        self._events, self._gone = events, gone

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events as they come, the headers with the first of them."""
        watch = asyncio.create_task(self._watch(receive))
        begun = done = False
        try:
            async with aclosing(self._events) as every:
                async for events in every:
                    if not begun:
                        await send(self._head())
                        begun = True
                    done = events.endswith(DONE)  # the last chunk ends the body: one packet fewer
                    await send(_body(events, more=not done))
            if not begun:  # cancelled before the first event
                await send(self._head())
            if not done:
                await send(_body(b"", more=False))
        finally:
            watch.cancel()
            self._gone()

    def _head(self) -> dict[str, Any]:
        return {"type": "http.response.start", "status": 200, "headers": self.raw_headers}

    async def _watch(self, receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self._gone()


def _body(content: bytes, more: bool) -> dict[str, Any]:
    return {"type": "http.response.body", "body": content, "more_body": more}


def _event(data: dict[str, Any]) -> bytes:
    return b"data: " + orjson.dumps(data) + b"\n\n"
