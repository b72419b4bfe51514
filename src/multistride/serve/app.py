"""The application: routes, limits, keys, request ids and the page.

Nothing here computes: models run in threads or processes of their own, so the event loop always
answers.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import logging
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse, PlainTextResponse, Response
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from multistride.errors import UserError
from multistride.serve import openai, translating
from multistride.serve.direct import Direct
from multistride.serve.errors import (
    LIBRETRANSLATE,
    Draining,
    HttpProblem,
    WrongKey,
    of_framework,
    of_user_error,
    of_validation,
)
from multistride.serve.served import Served
from multistride.serve.writing import fresh_name
from multistride.version import __version__

logger = logging.getLogger(__name__)

PAGE = Path(__file__).parent / "page"
PARTS = {
    "/": ("index.html", "text/html"),
    "/docs": ("docs.html", "text/html"),
    "/page.css": ("page.css", "text/css"),
    "/page.js": ("page.js", "text/javascript"),
}
"""Files of the page and their media types, by route."""

OPEN_PATHS = {"/docs", "/openapi.json", "/health", "/ready", "/version", "/favicon.ico"}
OPEN_PATHS |= {"/", "/page.css", "/page.js"}
"""What needs no key: nothing of a model, and what load balancers ask."""

REQUEST_ID = re.compile(r"[\x21-\x7e]{1,128}")
"""Ids of clients that are passed on; others are replaced."""


@dataclass(frozen=True)
class Limits:
    """Limits of requests. `body_bytes` bounds a request's body, `body_seconds` the time in
    which it must come; `api_key` is asked of every client (None: of nobody).
    """

    body_bytes: int = 1 << 20
    body_seconds: float = 60.0
    api_key: str | None = None


def application(served: Served, limits: Limits) -> FastAPI:
    """Return the ASGI application over served models."""
    app = FastAPI(
        title="multistride",
        version=__version__,
        description="Models that write K tokens per step: one event per committed group.",
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,  # a redirection names the host that the request named
        lifespan=_lifespan(served),
    )
    routers = openai.router(served), translating.router(served)
    for router in routers:
        app.include_router(router)
    _add_state(app, served)
    _add_page(app)
    app.add_exception_handler(HttpProblem, _problem)
    app.add_exception_handler(UserError, _user_error)
    app.add_exception_handler(RequestValidationError, _validation)
    app.add_exception_handler(HTTPException, _starlette)
    app.add_middleware(Direct, routers=routers, refused=_refusal)
    app.add_middleware(Door, served=served, limits=limits)
    return app


def _lifespan(served: Served) -> Any:
    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        await served.start()
        yield
        served.stop()

    return lifespan


def _add_state(app: FastAPI, served: Served) -> None:
    @app.get("/health", tags=["State"])
    async def health() -> dict[str, str]:
        """Say that the process is up."""
        return {"status": "ok"}

    @app.get(
        "/ready", tags=["State"], responses={503: {"description": "Not ready, and the reason."}}
    )
    async def ready() -> JSONResponse:
        """Say whether requests are taken: models loaded, queues not full, not shutting down."""
        reason = served.not_ready()
        if reason is not None:
            return JSONResponse({"status": "not ready", "reason": reason}, 503)
        return JSONResponse({"status": "ready"})

    @app.get("/version", tags=["State"])
    async def version() -> dict[str, str]:
        """Return the version of the server."""
        return {"version": __version__}

    @app.get("/metrics", tags=["State"], response_class=PlainTextResponse)
    async def metrics() -> Response:
        """Return the metrics in Prometheus' text format."""
        return Response(served.metrics.text(), media_type="text/plain; version=0.0.4")


def _add_page(app: FastAPI) -> None:
    def sends(name: str, media: str) -> Callable[[], Awaitable[FileResponse]]:
        async def part() -> FileResponse:
            return FileResponse(PAGE / name, media_type=media)

        return part

    for path, (name, media) in PARTS.items():
        app.get(path, include_in_schema=False)(sends(name, media))


class Door:
    """The door that every request passes: its id, key, size of body, and one line of log."""

    def __init__(self, app: ASGIApp, served: Served, limits: Limits) -> None:
        self._app, self._served, self._limits = app, served, limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer it here."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        method = scope["method"]
        if method == "HEAD":  # answered as GET is; the server sends no body
            scope = {**scope, "method": "GET"}
        headers = {key.lower(): value for key, value in scope["headers"]}
        name = _request_id(headers.get(b"x-request-id"))
        scope.setdefault("state", {})["id"] = name
        status, began = 0, time.perf_counter()

        async def answered(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", []), (b"x-request-id", name.encode())]
            await send(message)

        try:
            problem = self._refused(scope, headers)
            if problem is not None:
                await problem.response(scope["path"])(scope, receive, answered)
                return
            await self._app(scope, self._bounded(receive), answered)
        except ClientDisconnect:
            pass  # nobody is there to be answered
        except Exception as error:
            if status:  # the answer has begun, and cannot be another one
                raise
            response = await _failure(Request(scope), error)
            await response(scope, receive, answered)
        except asyncio.CancelledError:
            if not self._served.draining:
                raise
            if not status:  # the time to finish is over
                await Draining().response(scope["path"])(scope, receive, answered)
        finally:
            facts = {
                "id": name,
                "method": method,
                "path": scope["path"],
                "status": status,
                "milliseconds": round(1000 * (time.perf_counter() - began), 1),
            }
            asked_often = scope["path"] in OPEN_PATHS or scope["path"] == "/metrics"
            level = logging.DEBUG if asked_often and status < 500 else logging.INFO
            logger.log(level, "%s", json.dumps(facts))

    def _refused(self, scope: Scope, headers: dict[bytes, bytes]) -> HttpProblem | None:
        if self._served.draining and scope["path"] not in OPEN_PATHS:
            return Draining()
        length = headers.get(b"content-length", b"0")
        if not length.isdigit():
            return HttpProblem(400, "Content-Length is not a number", code="invalid_header")
        if int(length) > self._limits.body_bytes:
            return self._too_large()
        key = self._limits.api_key
        if key is not None and scope["path"] not in OPEN_PATHS:
            right = _opens(headers.get(b"authorization", b""), key)
            scope["state"]["key"] = None if right else key
            if not right and scope["path"] not in LIBRETRANSLATE:
                return WrongKey()
        return None

    def _too_large(self) -> HttpProblem:
        most = self._limits.body_bytes
        return HttpProblem(
            413, f"the body is larger than {most:,} bytes: split the request", code="too_large"
        )

    def _bounded(self, receive: Receive) -> Receive:
        read, complete = 0, False
        ends = time.monotonic() + self._limits.body_seconds

        async def bounded() -> Message:
            nonlocal read, complete
            if complete:  # what comes now is the end of the connection, in its own time
                return await receive()
            try:
                async with asyncio.timeout(ends - time.monotonic()):  # no task, as `wait_for` has
                    message = await receive()
            except TimeoutError as error:
                raise _Refused(self._too_slow()) from error
            read += len(message.get("body", b""))
            complete = not message.get("more_body", False)
            if read > self._limits.body_bytes:
                raise _Refused(self._too_large())
            return message

        return bounded

    def _too_slow(self) -> HttpProblem:
        seconds = self._limits.body_seconds
        return HttpProblem(
            408, f"the body did not come within {seconds:g} s: send it again", code="too_slow"
        )


class _Refused(HTTPException):
    """A body that went past a limit while it was read. FastAPI lets this class of exceptions
    pass.
    """

    def __init__(self, problem: HttpProblem) -> None:
        super().__init__(problem.status)
        self.problem = problem


def _opens(given: bytes, key: str) -> bool:
    """Return True if an Authorization header has the key, in UTF-8 or, as some clients write it,
    Latin-1; the scheme is written in any case (RFC 9110, section 11.1).
    """
    scheme, _, token = given.partition(b" ")
    token = token.strip() if scheme.lower() == b"bearer" else given
    right = hmac.compare_digest(token, key.encode())
    with suppress(UnicodeEncodeError):
        right |= hmac.compare_digest(token, key.encode("latin-1"))
    return right


def _request_id(given: bytes | None) -> str:
    text = (given or b"").decode("latin-1")
    return text if REQUEST_ID.fullmatch(text) else fresh_name()


async def _problem(request: Any, error: Exception) -> Response:
    assert isinstance(error, HttpProblem)
    return error.response(request.url.path)


async def _user_error(request: Any, error: Exception) -> Response:
    assert isinstance(error, UserError)
    return of_user_error(error).response(request.url.path)


async def _validation(request: Any, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    return of_validation(error).response(request.url.path)


async def _starlette(request: Any, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if isinstance(error, _Refused):
        return error.problem.response(request.url.path)
    problem = of_framework(request.method, request.url.path, error)
    return problem.response(request.url.path)


async def _refusal(request: Any, error: Exception) -> Response:
    """Return the answer to a request that ended in any of these errors."""
    if isinstance(error, HttpProblem):
        return await _problem(request, error)
    if isinstance(error, UserError):
        return await _user_error(request, error)
    if isinstance(error, HTTPException):
        return await _starlette(request, error)
    return await _failure(request, error)


async def _failure(request: Any, error: Exception) -> Response:
    logger.error("request %s failed", request.state.id, exc_info=error)
    problem = HttpProblem(500, "the server failed on this request", code="internal")
    return problem.response(request.url.path)
