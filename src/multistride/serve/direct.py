"""The busiest routes without the framework's routing and injection, which cost a short text more
than all that this server does for it.

A valid JSON body goes straight to the route's function. Any other request takes the long way, so
that errors of the body are described in one place.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, get_type_hints

from fastapi import APIRouter, Request
from fastapi.responses import Response
from fastapi.routing import APIRoute
from pydantic import BaseModel
from starlette.types import ASGIApp, Message, Receive, Scope, Send

Refusal = Callable[[Request, Exception], Awaitable[Response]]
"""A request and the error that it ended in, to the answer."""


class Direct:
    """Answers POST requests whose route takes one JSON body; passes all others on."""

    def __init__(self, app: ASGIApp, routers: Sequence[APIRouter], refused: Refusal) -> None:
        self._app, self._refused = app, refused
        self._routes: dict[str, tuple[type[BaseModel], Callable[..., Awaitable[Response]]]] = {}
        for router in routers:
            for route in router.routes:
                if isinstance(route, APIRoute) and route.methods == {"POST"}:
                    body = get_type_hints(route.endpoint).get("body")
                    if body is not None:
                        self._routes[route.path] = body, route.endpoint

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or pass it on."""
        route = None
        if scope["type"] == "http" and scope["method"] == "POST" and _is_json(scope):
            route = self._routes.get(scope["path"])
        if route is None:
            await self._app(scope, receive, send)
            return
        request = Request(scope, receive)
        try:
            messages = await _read(receive)
            kind, endpoint = route
            value = _parsed(kind, messages)
            response = None if value is None else await endpoint(body=value, request=request)
        except Exception as error:
            response = await self._refused(request, error)
        if response is None:
            await self._app(scope, _again(messages, receive), send)
        else:
            await response(scope, receive, send)


def _is_json(scope: Scope) -> bool:
    kinds = [value for name, value in scope["headers"] if name == b"content-type"]
    return len(kinds) == 1 and kinds[0].split(b";")[0].strip().lower() == b"application/json"


async def _read(receive: Receive) -> list[Message]:
    """Return the messages of a body, or those up to the end of its connection."""
    messages = [await receive()]
    while messages[-1]["type"] == "http.request" and messages[-1].get("more_body", False):
        messages.append(await receive())
    return messages


def _parsed(kind: type[BaseModel], messages: list[Message]) -> BaseModel | None:
    """Return the body; None if it is not complete, not JSON, or does not fit."""
    if messages[-1]["type"] != "http.request":
        return None
    try:
        value: Any = json.loads(b"".join(message.get("body", b"") for message in messages))
        return kind.model_validate(value)
    except (ValueError, RecursionError):
        return None


def _again(messages: list[Message], receive: Receive) -> Receive:
    """Return what gives the messages once more, and then those that follow."""
    remaining = list(messages)

    async def replayed() -> Message:
        return remaining.pop(0) if remaining else await receive()

    return replayed
