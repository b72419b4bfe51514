"""Run an application: the socket, signals, and the end without losing what was accepted."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import re
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from multistride.errors import UsageError, UserError

try:
    import resource
except ImportError:  # Windows has no limits of this kind
    resource = None  # type: ignore[assignment]

logger = logging.getLogger(__name__)

ASGIApplication = Callable[..., Any]

GRACE = 60
"""Seconds that running requests have to finish after SIGTERM."""

REFUSING = 0.5
"""Seconds in which a server with clients still answers new requests, with 503, after SIGTERM."""

INTERRUPTED = 130
"""Exit code after a second Ctrl-C."""

HEADERS = 32 << 10
"""Bytes of the first line and headers of a request."""

PATIENCE = 60.0
"""Seconds within which the headers of a request must come."""

UPGRADE = re.compile(rb"(?im)^(?:upgrade|http2-settings)[ \t]*:[^\n]*\n")
"""Headers that ask for another protocol. They may be ignored (RFC 9110, section 7.8) and are: the
parser would take what follows them for that protocol, so that a body was lost. Java's HttpClient
asks for HTTP/2 in its first request."""

HEAD_ENDS = re.compile(rb"\r?\n\r?\n")

CHUNKING = 8
"""Bytes around a byte of a body that comes in chunks: at worst `1`, three line ends, and itself."""


class Protocol(HttpToolsProtocol):
    """HTTP/1.1 with a limit for all that is no body: its parser takes headers of any size.

    The C parser answers three times as many small requests a second as the default in Python.
    """

    _overhead = _head = 0
    _body = 0
    _in_head = True
    _begins = True
    """True until the headers of a request are complete."""
    _upgraded = False
    _patience: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take a connection; it is closed if no request comes."""
        super().connection_made(transport)
        self._patience = self.loop.call_later(PATIENCE, transport.close)

    def connection_lost(self, exc: Exception | None) -> None:
        """Let a connection go."""
        self._be_patient(False)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse what has come, unless it is too much; wait so long for the rest of the headers."""
        if self._upgraded:
            return
        self._overhead += len(data)
        if self._begins:
            end = HEAD_ENDS.search(data)
            head = len(data) if end is None else end.end()
            data = UPGRADE.sub(b"", data[:head]) + data[head:]
        super().data_received(data)
        if self.parser.should_upgrade() and self.cycle is not None:
            # Its headers came in pieces, or behind another request: what follows is no request.
            self._upgraded, self.cycle.keep_alive = True, False
        self._be_patient(self._in_head)
        much = self._head > HEADERS or self._overhead > HEADERS + CHUNKING * self._body
        if much and not self.transport.is_closing():
            reason = f"the headers are larger than {HEADERS:,} bytes: send less"
            logger.warning(reason)
            self.transport.write(
                b"HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\n"
                b"content-type: text/plain\r\ncontent-length: %d\r\n\r\n%s"
                % (len(reason), reason.encode())
            )
            self.transport.close()

    def on_message_complete(self) -> None:
        """Expect the next request."""
        super().on_message_complete()
        self._begins = True

    def on_message_begin(self) -> None:
        """Begin a request."""
        self._overhead = self._body = self._head = 0
        self._in_head = True
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        """Take a piece of the URL."""
        self._head += len(url)
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header, which may have come in one piece with the beginning of its request."""
        self._head += len(name) + len(value) + 4  # ": " and the end of the line
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Begin to answer."""
        self._in_head = self._begins = False
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Take a piece of a body, which has a limit of its own."""
        self._overhead -= len(body)
        self._body += len(body)
        super().on_body(body)

    def _be_patient(self, waits: bool) -> None:
        """Close the connection in a while if it waits for headers, and not otherwise."""
        if self._patience is not None and not waits:
            self._patience.cancel()
            self._patience = None
        elif self._patience is None and waits:
            self._patience = self.loop.call_later(PATIENCE, self.transport.close)


SWITCHED = 0.0003
"""Seconds after which a thread that runs Python lets another one run: with Python's 5 ms, decoding
waits for the event loop after every pass."""


class Server(uvicorn.Server):
    """A server that stops taking requests on SIGTERM or SIGINT, and finishes those it has.

    `drain` makes the application refuse requests; `started_with` is called once it takes them.
    `failed` says what can never be answered again, if anything: see `give_up`.
    """

    def __init__(
        self,
        app: ASGIApplication,
        drain: Callable[[], None],
        started_with: Callable[[], None] = lambda: None,
        failed: Callable[[], str | None] = lambda: None,
    ) -> None:
        config = uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            timeout_graceful_shutdown=GRACE,
            timeout_keep_alive=30,
            http=Protocol,
            ws="none",
            server_header=False,
        )
        super().__init__(config)
        self._drain, self._started_with, self.failed = drain, started_with, failed
        self.give_up = False
        """End, as on SIGTERM, once something has failed: for a server that will be replaced."""

    async def on_tick(self, counter: int) -> bool:
        """Return whether to end; asked ten times a second."""
        if self.give_up and not self.should_exit and self.failed() is not None:
            self.handle_exit(signal.SIGTERM, None)
        return await super().on_tick(counter)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to take requests."""
        await super().startup(sockets)
        self._started_with()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Finish what runs; whoever asks meanwhile is refused for a moment before ports close."""
        if self.server_state.connections and not self.force_exit:
            await asyncio.sleep(REFUSING)  # closing resets connections whose request is unread
        await super().shutdown(sockets)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Hear signals while serving, and do not raise them again afterwards: exit code 0.

        In another thread than the main one nothing is heard: `handle_exit` is called instead.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        kinds = (signal.SIGINT, signal.SIGTERM)
        before = {kind: signal.signal(kind, self.handle_exit) for kind in kinds}
        try:
            yield
        finally:
            for kind, handler in before.items():
                signal.signal(kind, handler)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Drain; a second SIGINT ends at once."""
        if self.should_exit and sig == signal.SIGINT:
            logger.warning("stopped at once: running requests are cut off")
            os._exit(INTERRUPTED)  # models in processes of their own see that this one is gone
        if not self.should_exit:
            logger.info("shutting down: running requests finish, new ones are refused")
        self._drain()
        super().handle_exit(sig, frame)


def serve(server: Server, listening: socket.socket) -> None:
    """Serve at a socket until a signal."""
    _allow_files()
    sys.setswitchinterval(SWITCHED)
    with contextlib.closing(listening):
        server.run(sockets=[listening])


def shown(listening: socket.socket) -> str:
    """Return the URL of a socket."""
    address = listening.getsockname()
    host = f"[{address[0]}]" if ":" in address[0] else address[0]
    return f"http://{host}:{address[1]}"


def bound(host: str, port: int, *, shared: bool = False, backlog: int = 2048) -> socket.socket:
    """Return a socket that listens at the address; `shared` lets others listen there too.

    A backlog of 0 keeps the address without listening. Raises `UserError` in one line if it cannot
    be taken.
    """
    listening = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # connections inherit it
        listening.bind((host, port))
        if backlog:
            listening.listen(backlog)
        return listening
    except (OSError, OverflowError) as error:
        listening.close()
        raise _refusal(host, port, error) from error


def _refusal(host: str, port: int, error: OSError | OverflowError) -> UserError:
    """Return why an address cannot be taken, in one line."""
    if isinstance(error, OverflowError):
        return UsageError(f"port {port} was given: choose one from 0 to 65535")
    if error.errno == errno.EADDRINUSE:
        return UserError(f"port {port} is in use: give another --port, or 0 for a free one")
    return UserError(f"cannot listen on {host}:{port}: {error.strerror or str(error)}")


def _allow_files() -> None:
    """Allow as many open connections as the system does."""
    if resource is None:
        return
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
