"""Run the application: the socket, signals, and the end without losing what was accepted."""

from __future__ import annotations

import contextlib
import errno
import logging
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import uvicorn

from multistride.errors import UsageError, UserError
from multistride.serve.app import Limits, application
from multistride.serve.scheduler import Capacity
from multistride.serve.served import Defaults, Served, opened

try:
    import resource
except ImportError:  # Windows has no limits of this kind
    resource = None  # type: ignore[assignment]

__all__ = ["Capacity", "Defaults", "Limits", "bound", "opened", "serve"]

logger = logging.getLogger(__name__)

GRACE = 60
"""Seconds that running requests have to finish after SIGTERM."""


class Server(uvicorn.Server):
    """A server that stops taking requests on SIGTERM or SIGINT, and finishes those it has."""

    def __init__(self, config: uvicorn.Config, served: Served) -> None:
        super().__init__(config)
        self._served = served

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Hear signals while serving, and do not raise them again afterwards: exit code 0."""
        kinds = (signal.SIGINT, signal.SIGTERM)
        before = {kind: signal.signal(kind, self.handle_exit) for kind in kinds}
        try:
            yield
        finally:
            for kind, handler in before.items():
                signal.signal(kind, handler)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Drain; a second SIGINT ends at once."""
        if not self.should_exit:
            logger.info("shutting down: running requests finish, new ones are refused")
        self._served.drain()
        super().handle_exit(sig, frame)


def serve(served: Served, host: str, port: int, limits: Limits) -> None:
    """Serve until a signal. Raises `UserError` if the address cannot be taken."""
    listening = bound(host, port)
    _raise_file_limit()
    app = application(served, limits)

    address = listening.getsockname()
    shown = f"[{address[0]}]" if ":" in address[0] else address[0]
    logger.info(f"serving {', '.join(served.models)} on http://{shown}:{address[1]}")
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=GRACE,
        timeout_keep_alive=30,
        h11_max_incomplete_event_size=32 << 10,
        server_header=False,
    )
    with contextlib.closing(listening):
        Server(config, served).run(sockets=[listening])


def bound(host: str, port: int) -> socket.socket:
    """Return a socket at the address. Raises `UserError` in one line if it cannot be taken."""
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listening = socket.create_server((host, port), family=family, backlog=2048)
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # connections inherit it
        return listening
    except OverflowError as error:
        raise UsageError(f"port {port} was given: choose one from 0 to 65535") from error
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise UserError(
                f"port {port} is in use: give another --port, or 0 for a free one"
            ) from error
        reason = error.strerror or str(error)
        raise UserError(f"cannot listen on {host}:{port}: {reason}") from error


def _raise_file_limit() -> None:
    """Allow as many open connections as the system does."""
    if resource is None:
        return
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
