"""The queue of one model, as the event loop sees it: tickets out, groups in, metrics.

`rounds.py` decodes, in a thread or a process of its own; a `Link` stands in between.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Callable
from typing import NamedTuple

from multistride.decode.ending import Ending
from multistride.decode.hypothesis import Group
from multistride.decode.options import Mode
from multistride.serve.errors import Draining, Gone, HttpProblem, QueueFull
from multistride.serve.metrics import Metrics
from multistride.serve.orders import Cancel, Capacity, Link, Report, Work

PATIENCE = 30.0
"""Seconds within which a full queue is expected to have room again, where nothing was measured."""


FINISH_REASONS = {"end": "stop", "stop": "stop", "limit": "length"}
"""OpenAI's `finish_reason` of our endings, and vLLM's in metrics."""


class Committed(NamedTuple):
    """A group that was written for a request; `ending` says why the text is over, else None."""

    group: Group
    mode: Mode
    ending: Ending | None


class Ticket:
    """One request on its way: take its groups from `lots`; `cancel` to free its row."""

    def __init__(self, leave: Callable[[], None], whole: bool = False) -> None:
        """`leave` is called if it is cancelled. `whole`: nobody looks before the text is over."""
        self.cancelled = self.begun = False
        self.arrived = time.perf_counter()
        self._leave, self._whole = leave, whole
        self._items: list[Committed | HttpProblem] = []
        self._news: asyncio.Future[None] | None = None

    def cancel(self) -> None:
        """Free the row before its next pass; nothing more comes, and who waits for it goes on."""
        if not self.cancelled:
            self.cancelled = True
            self._leave()
            self._wake()

    def put(self, item: Committed | HttpProblem) -> None:
        """Hand on a group, or the problem that ends the request."""
        self._items.append(item)
        if not (self._whole and isinstance(item, Committed) and item.ending is None):
            self._wake()

    async def lots(self) -> AsyncIterator[list[Committed]]:
        """Yield the groups that have come, all at once, until the text is over or cancelled.

        Raises `HttpProblem` if it failed.
        """
        while not self.cancelled:
            if not self._items:
                self._news = asyncio.get_running_loop().create_future()
                await self._news
            items, self._items = self._items, []
            groups = [item for item in items if isinstance(item, Committed)]
            if groups:
                yield groups
                if groups[-1].ending is not None:
                    return
            if len(groups) < len(items):
                raise next(item for item in items if isinstance(item, HttpProblem))

    def _wake(self) -> None:
        if self._news is not None and not self._news.done():
            self._news.set_result(None)


class Scheduler:
    """The open requests of one model. All methods are called on the event loop."""

    def __init__(self, name: str, capacity: Capacity, metrics: Metrics, link: Link) -> None:
        self.name, self.capacity, self.metrics = name, capacity, metrics.of(name)
        self.draining = self.broken = False
        self.overhead = 0.0
        """Milliseconds of a round beside its steps, for each text (`Rounds.overhead`)."""
        self._link = link
        self._keys = itertools.count()
        self._open: dict[int, Ticket] = {}
        self._running = 0
        self._seconds = PATIENCE / 10

    async def start(self) -> None:
        """Start decoding."""
        await self._link.start(self._received, self._lost)

    def stop(self) -> None:
        """End decoding after the present pass."""
        self._link.stop()

    @property
    def full(self) -> bool:
        """True if no more requests may wait."""
        return self._waiting >= self.capacity.waiting

    @property
    def load(self) -> int:
        """Requests that run or wait."""
        return len(self._open)

    @property
    def _waiting(self) -> int:
        return max(0, len(self._open) - self._running)

    def submit(self, work: Work, whole: bool = False, begun: bool = False) -> Ticket:
        """Queue a request; the key of its `work` is replaced.

        `whole` is for those who want the whole answer. Raises `QueueFull`; `Draining` while the
        server shuts down, though a text of a request that has `begun` is still taken then; `Gone`
        when nobody decodes, and the problem of its other texts for a request that has `begun`.
        """
        if self.broken:
            raise _failure() if begun else Gone(self.name)
        if self.draining and not begun:
            raise Draining
        if self.full:
            raise QueueFull(self._waiting, self.capacity.waiting, self._seconds)
        key = next(self._keys)
        ticket = self._open[key] = Ticket(lambda: self._cancel(key), whole)
        self.metrics.prompt_tokens.inc(len(work.tokens))
        self._link.send(work._replace(key=key))
        self._gauge()
        return ticket

    def _cancel(self, key: int) -> None:
        if key in self._open and not self.broken:
            self._link.send(Cancel(key))

    def _gauge(self) -> None:
        self.metrics.running.set(self._running)
        self.metrics.waiting.set(self._waiting)

    def _received(self, report: Report) -> None:
        """Hand on what was written."""
        self._running, self.overhead = report.running, report.overhead
        for key in report.gone:
            del self._open[key]
            self.metrics.ended("abort").inc()
        for key in report.failed:
            self._open.pop(key).put(_failure())
        if report.written:
            self._hand_on(report)
        self._gauge()

    def _lost(self) -> None:
        """Answer all requests, and take no more: nobody decodes."""
        self.broken = True
        tickets, self._open, self._running = list(self._open.values()), {}, 0
        self._gauge()
        for ticket in tickets:
            ticket.put(_failure())

    def _hand_on(self, report: Report) -> None:
        """Give every ticket its group, and count."""
        now, metrics, mode = time.perf_counter(), self.metrics, report.mode
        metrics.steps.inc()
        tokens = 0
        for key, group, ending in report.written:
            ticket = self._open[key] if ending is None else self._open.pop(key)
            kept = len(group.tokens)
            tokens += kept
            metrics.of_mode(mode).observe(group.group_size)
            if ticket.begun and kept:
                metrics.between.observe(report.seconds / kept)
            elif not ticket.begun:
                ticket.begun = True
                metrics.first.observe(now - ticket.arrived)
            if ending is not None:
                metrics.whole.observe(now - ticket.arrived)
                metrics.ended(FINISH_REASONS.get(ending, "abort")).inc()
                self._seconds += 0.1 * (now - ticket.arrived - self._seconds)
            if mode == "exact":
                metrics.drafted.inc(max(group.group_size - 1, 0))
                metrics.accepted.inc(max(kept - 1, 0))
            ticket.put(Committed(group, mode, ending))
        metrics.tokens.inc(tokens)


def _failure() -> HttpProblem:
    return HttpProblem(500, "the server failed on this request", code="internal")
