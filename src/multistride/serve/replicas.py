"""Several servers behind one address: each a process with models of its own.

The kernel shares out connections among the sockets that listen at one address (`SO_REUSEPORT`, man
7 socket), so nothing stands between client and server. A replica that dies is started again; the
others serve on. On SIGTERM all of them finish what they have.

`processes.py` starts replicas as processes of this machine, `on_ray.py` as actors of a Ray cluster.
"""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Protocol

from multistride.errors import UserError
from multistride.serve.metrics import forget_the_dead
from multistride.serve.server import GRACE, Server, bound, serve

logger = logging.getLogger(__name__)

LOOK_EVERY = 0.5
"""Seconds between looks at the replicas."""

MOST_DEATHS, WITHIN = 5, 60.0
"""Replicas that may die within so many seconds before the server gives up."""


class Site(Protocol):
    """All that a replica needs to serve; it is pickled and sent to its process."""

    @property
    def host(self) -> str:
        """Return the address to listen on."""

    @property
    def port(self) -> int:
        """Return the port to listen on."""

    @property
    def threads(self) -> int:
        """Return the threads of one replica."""

    def at(self, port: int) -> Site:
        """Return the same at another port."""

    def server(self, started_with: Callable[[], None]) -> Server:
        """Open the models and return the server."""


def run(site: Site, started_with: Callable[[], None], made: Callable[[Server], None]) -> None:
    """Serve until the server is told to stop; `made` gets it before it starts.

    Raises `UserError` when one of its models has failed, so that another replica takes its place.
    """
    forget_the_dead()
    server = site.server(started_with)
    server.give_up = True
    made(server)
    serve(server, bound(site.host, site.port, shared=True))
    if (reason := server.failed()) is not None:
        raise UserError(reason)


class Replica(Protocol):
    """One server, in a process of its own."""

    def ready(self, seconds: float) -> bool:
        """Wait so long for it to take requests. Raises `UserError` if it never will."""

    def ended(self) -> str | None:
        """Return why it is gone; None while it runs."""

    def drain(self) -> None:
        """Let it finish what it has, and end."""

    def kill(self) -> None:
        """End it at once."""


def supervise(hire: Callable[[], Replica], count: int, started: Callable[[], str]) -> None:
    """Keep so many replicas running until a signal, then let them finish.

    `started` returns what to log once all of them take requests. Raises `UserError` if one cannot
    start, or if they die again and again.
    """
    replicas: list[Replica] = []
    with _signals() as stopped:
        try:
            for _ in range(count):  # one by one: the first measures the machine for `auto`
                if stopped.is_set():
                    break
                replicas.append(hire())
                while not stopped.is_set() and not replicas[-1].ready(LOOK_EVERY):
                    pass
            if not stopped.is_set():
                logger.info(started())
            _watch(replicas, hire, stopped)
            _drain(replicas)
        finally:
            for replica in replicas:
                replica.kill()


def _watch(replicas: list[Replica], hire: Callable[[], Replica], stopped: threading.Event) -> None:
    deaths: list[float] = []
    due: dict[int, float] = {}
    while not stopped.wait(LOOK_EVERY):
        for index, replica in enumerate(replicas):
            now = time.monotonic()
            if index in due:
                if now >= due[index]:
                    del due[index]
                    replicas[index] = hire()
                continue
            if (reason := replica.ended()) is None:
                continue
            replica.kill()
            deaths = [*(each for each in deaths if now - each < WITHIN), now]
            often = len(deaths) >= MOST_DEATHS
            due[index] = now + (WITHIN if often else 0)
            if often and len(due) == len(replicas):
                raise UserError(
                    f"{len(deaths)} replicas ended within {WITHIN:g} s (the last: {reason}): see "
                    "the lines above; with too little memory, lower --replicas"
                )
            later = f" in {WITHIN:g} s, as {len(deaths)} ended lately" if often else ""
            logger.warning(f"a replica ended ({reason}): starting another{later}")


def _drain(replicas: list[Replica]) -> None:
    logger.info("shutting down: running requests finish, new ones are refused")
    for replica in replicas:
        replica.drain()
    ends = time.monotonic() + GRACE + 5
    while time.monotonic() < ends and any(replica.ended() is None for replica in replicas):
        time.sleep(0.05)


@contextmanager
def _signals() -> Iterator[threading.Event]:
    """Yield an event that SIGINT or SIGTERM sets; a second SIGINT ends at once."""
    stopped = threading.Event()

    def stop(number: int, frame: FrameType | None) -> None:
        if stopped.is_set() and number == signal.SIGINT:
            raise KeyboardInterrupt
        stopped.set()

    kinds = (signal.SIGINT, signal.SIGTERM)
    before = {kind: signal.signal(kind, stop) for kind in kinds}
    try:
        yield stopped
    finally:
        for kind, handler in before.items():
            signal.signal(kind, handler)
