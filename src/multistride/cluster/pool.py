"""Workers of a Ray cluster: each opens a model once and works on item after item.

A worker that dies (killed, out of memory, its machine gone) is replaced, and the item it had is
done again by another. Results count only once they are here, so nothing is lost or done twice. An
item whose workers die again and again ends the run: it is likely to be what kills them.

Source of the mechanism, one actor for each model replica: Moritz et al. 2018, arXiv 1712.05889.
"""

from __future__ import annotations

import io
import logging
import os
import signal
import socket
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from itertools import islice
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError

from multistride.cluster.spread import I, O, Opening
from multistride.errors import UsageError, UserError

logger = logging.getLogger(__name__)

MOST_TRIES = 3
"""Workers that one item may cost."""

AHEAD = 4
"""Items per worker that are read before the first of them is done: one slow item holds up few."""

SILENCE = 60.0
"""Seconds without any result after which the log says how many workers have started."""

OBJECTS = 256 << 20
"""Bytes of shared memory for items and results on one machine; both are lines of text."""

REACHED_WITHIN = 5.0
"""Seconds within which a cluster must take a connection."""

LOCAL = "local"
"""The address that stands for workers on this machine, without a cluster."""


@dataclass(frozen=True)
class Resources:
    """The needs of one worker, and how many there are (None: as many as there is room for)."""

    threads: int = 1
    gpu: bool = False
    workers: int | None = None


@dataclass
class _Task:
    """An item on its way: its index, and how many workers it has cost."""

    index: int
    item: Any
    lost: int = 0


class _Worker:
    """One process of the cluster. It opens what it needs with its first item."""

    def __init__(self, opening: Opening[Any, Any]) -> None:
        self._opening = opening
        self._work: Any = None

    def ready(self) -> None:
        """Return as soon as the process is up."""

    def do(self, item: Any) -> Any:
        """Return the result for an item."""
        if self._work is None:
            self._work = self._opening()
        return self._work(item)


@contextmanager
def connected(address: str) -> Iterator[None]:
    """Connect to the cluster at an address, or start workers here; leave it in the end.

    Ray prints what happens to its workers on stdout, where data goes: meanwhile `sys.stdout` is the
    log. Raises `UserError` if no cluster answers.
    """
    _check_reachable(address)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # it would report to its makers
    handler = signal.getsignal(signal.SIGTERM)
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    try:
        if address == LOCAL:
            ray.init(LOCAL, include_dashboard=False, object_store_memory=OBJECTS, **quiet)
        else:
            ray.init(address, **quiet)
    except (ConnectionError, RayError, ValueError, RuntimeError) as error:
        raise _unreachable(address, str(error).strip().partition("\n")[0]) from error
    signal.signal(signal.SIGTERM, handler)  # Ray's own would exit without cleaning up
    with redirect_stdout(_Log()):
        try:
            yield
        finally:
            ray.shutdown()


def _check_reachable(address: str) -> None:
    """Raise `UserError` if nobody listens at HOST:PORT, where Ray would try for minutes."""
    host, colon, port = address.rpartition(":")
    if not colon or not port.isdigit() or "://" in address:
        return
    try:
        socket.create_connection((host, int(port)), timeout=REACHED_WITHIN).close()
    except (OSError, OverflowError) as error:
        raise _unreachable(address, getattr(error, "strerror", None) or str(error)) from error


def _unreachable(address: str, reason: str) -> UserError:
    return UserError(
        f"no Ray cluster answers at {address} ({reason}): start one with `ray start --head`, or "
        "give --ray local"
    )


class _Log(io.TextIOBase):
    """A stream whose lines go to the log, where `--verbose` shows them."""

    def write(self, text: str) -> int:
        if text.strip():
            logger.debug("%s", text.strip())
        return len(text)


class Pool:
    """The workers that a cluster has room for. A `Spread`; used inside `connected`."""

    def __init__(self, resources: Resources) -> None:
        room = ray.cluster_resources()
        gpu = resources.gpu and room.get("GPU", 0) >= 1
        most = int(room.get("GPU", 0) if gpu else room.get("CPU", 0) // resources.threads)
        wanted = resources.workers
        if most < 1 or (wanted or 0) > most:
            raise UsageError(
                f"{wanted or 1} workers with {resources.threads} threads were asked for, and the "
                f"cluster has {room.get('CPU', 0):g} cores and {room.get('GPU', 0):g} GPUs: lower "
                "--workers or --threads"
            )
        self.workers = wanted or most
        self._crews: dict[Any, _Crew] = {}
        self._actor = ray.remote(num_cpus=resources.threads, num_gpus=int(gpu))(_Worker)
        logger.info(f"Ray: {self.workers} workers, {resources.threads} threads each")

    def __call__(
        self, opening: Opening[I, O], items: Iterable[I]
    ) -> Generator[tuple[I, O], None, None]:
        """Yield every item with its result, in order.

        The workers stay for more items of the same opening, unless the iteration is broken off.
        Raises what the work raises, and `UserError` for an item that costs `MOST_TRIES` workers.
        """
        crew = self._crews.pop(opening, None) or _Crew(self._actor, opening, self.workers)
        for other in self._crews.values():
            other.dismiss()
        self._crews.clear()
        try:
            yield from crew.results(enumerate(items))
        except BaseException:
            crew.dismiss()
            raise
        self._crews[opening] = crew


class _Crew:
    """The workers of one iteration, and what each has in hand."""

    def __init__(self, actor: Any, opening: Opening[Any, Any], count: int) -> None:
        self._actor, self._opening = actor, ray.put(opening)
        self._idle: list[Any] = []
        self._busy: dict[Any, tuple[Any, _Task | None]] = {}
        self._again: deque[_Task] = deque()
        self._room = AHEAD * count
        self._unstarted_deaths = 0
        for _ in range(count):
            self._hire()

    def results(self, numbered: Iterator[tuple[int, Any]]) -> Iterator[tuple[Any, Any]]:
        done: dict[int, tuple[Any, Any]] = {}
        following, exhausted = 0, False
        while True:
            while self._idle and (self._again or not exhausted):
                if not self._again:
                    if self._read_ahead(done) >= self._room:
                        break
                    fresh = list(islice(numbered, 1))
                    exhausted = not fresh
                    self._again += [_Task(*each) for each in fresh]
                    continue
                self._hand(self._again.popleft())
            if exhausted and not self._again and not self._open():
                return
            for task, result in self._finished():
                done[task.index] = task.item, result
            while following in done:
                yield done.pop(following)
                following += 1

    def dismiss(self) -> None:
        """End the workers at once."""
        for worker in [*self._idle, *(worker for worker, _ in self._busy.values())]:
            ray.kill(worker)

    def _open(self) -> list[_Task]:
        return [task for _, task in self._busy.values() if task is not None]

    def _read_ahead(self, done: dict[int, Any]) -> int:
        return len(done) + len(self._open())

    def _hire(self) -> None:
        worker = self._actor.remote(self._opening)
        self._busy[worker.ready.remote()] = worker, None

    def _hand(self, task: _Task) -> None:
        worker = self._idle.pop()
        self._busy[worker.do.remote(task.item)] = worker, task

    def _finished(self) -> Iterator[tuple[_Task, Any]]:
        """Wait until something ends; yield the results that have come."""
        ended, _ = ray.wait(list(self._busy), timeout=SILENCE)
        if not ended:
            starting = sum(task is None for _, task in self._busy.values())
            logger.info(f"Ray: nothing for {SILENCE:g} s; {starting} workers have not started")
        for reference in ended:
            worker, task = self._busy.pop(reference)
            try:
                result = ray.get(reference)
            except RayTaskError as error:  # the work itself raised
                self._idle.append(worker)
                raise error.cause if isinstance(error.cause, UserError) else error from error
            except RayError as error:
                self._lost(worker, task, error)
                continue
            self._idle.append(worker)
            if task is not None:
                yield task, result

    def _lost(self, worker: Any, task: _Task | None, error: RayError) -> None:
        """Replace a worker that died, and have its item done again."""
        ray.kill(worker)  # it may be alive and out of reach: then it is not waited for
        reason = type(error).__name__
        if task is None:
            self._unstarted_deaths += 1
            if self._unstarted_deaths >= MOST_TRIES * self._room:
                raise UserError(f"Ray's workers end before they begin ({reason}): see its logs")
        else:
            task.lost += 1
            if task.lost >= MOST_TRIES:
                raise UserError(
                    f"part {task.index + 1} of the work ended {task.lost} workers ({reason}): see "
                    "Ray's logs; with less memory than the model takes, lower --workers"
                )
            self._again.append(task)
            logger.warning(f"Ray: a worker was lost ({reason}); its part is done again")
        self._hire()
