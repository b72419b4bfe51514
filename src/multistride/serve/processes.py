"""Replicas as processes of this machine: `serve --replicas N`."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import socket
import tempfile
import threading
from collections.abc import Callable
from multiprocessing import connection
from multiprocessing.connection import Connection
from typing import Any

from multistride.errors import UserError
from multistride.serve.metrics import DIRECTORY
from multistride.serve.replicas import Replica, Site, run, supervise
from multistride.serve.server import Server, bound, shown

Prepare = Callable[[], None]
"""Makes the log of a new process what it is in this one."""


def serve(site: Site, names: str, count: int, prepare: Prepare) -> None:
    """Serve models with `count` processes until a signal.

    `names` are those of the models, for the log. Raises `UserError` if it cannot be.
    """
    if not hasattr(socket, "SO_REUSEPORT"):
        raise UserError("--replicas needs SO_REUSEPORT, which this system lacks: leave it out")
    with (
        contextlib.closing(bound(site.host, site.port, shared=True, backlog=0)) as kept,
        tempfile.TemporaryDirectory(prefix="multistride-metrics-") as metrics,
    ):
        os.environ[DIRECTORY] = metrics
        placed = site.at(kept.getsockname()[1])
        line = f"serving {names} by {count} replicas on {shown(kept)}"
        supervise(lambda: _Process(placed, prepare), count, lambda: line)


class _Process(Replica):
    def __init__(self, site: Site, prepare: Prepare) -> None:
        context = multiprocessing.get_context("spawn")
        self._news, theirs = context.Pipe(duplex=False)
        self._process = context.Process(
            target=_replica, args=(site, theirs, prepare), name="multistride replica"
        )
        self._process.start()
        theirs.close()

    def ready(self, seconds: float) -> bool:
        if not self._news.poll(seconds):
            return False
        try:
            problem = self._news.recv()
        except EOFError:
            problem = UserError(f"a replica ended before it served ({self.ended()})")
        if problem is not None:
            raise problem
        return True

    def ended(self) -> str | None:
        if self._process.is_alive():
            return None
        with contextlib.suppress(OSError, EOFError):
            while self._news.poll():
                problem = self._news.recv()
                if problem is not None:
                    return str(problem)
        return f"exit code {self._process.exitcode}"

    def drain(self) -> None:
        self._process.terminate()

    def kill(self) -> None:
        self._process.kill()
        self._process.join()
        self._news.close()


def _replica(site: Site, news: Connection[Any, Any], prepare: Prepare) -> None:
    """Serve until a signal, in a process of its own; tell the parent how it began."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal's Ctrl-C is the parent's affair
    prepare()
    try:
        run(site, lambda: news.send(None), _follow)
    except UserError as problem:
        with contextlib.suppress(OSError):
            news.send(problem)
    except BrokenPipeError:
        pass  # the parent is gone, and nobody is there to be told


def _follow(server: Server) -> None:
    """Stop the server when the parent is gone, however it ended: nobody else would."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def wait() -> None:
        connection.wait([parent.sentinel])
        server.handle_exit(signal.SIGTERM, None)

    threading.Thread(target=wait, daemon=True).start()
