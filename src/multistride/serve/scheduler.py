"""Continuous batching: requests join at the next step, and leave it when their text is over.

One thread a model runs the decode loop. What waits is begun in batches of one plan (mode, group
size, rules). A batch that is begun while others run takes turns with them, one pass each, so a new
request never waits for older texts to end, and joins one of the same plan as soon as its prompts
are read. Row limits and seeds belong to the request, and rows of a batch do not see each other: an
answer does not depend on who shares its batch.

Where the engine has no way of its own to gather rows (`decode.batch.gathering`), a batch that
begins alone, or large, takes the engine's shortest loop, which no other can join.

Source of scheduling by passes instead of whole batches: Yu et al. 2022, Orca (OSDI 22).
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import torch

from multistride.decode.batch import Rows, begin_batch, begin_joinable, gathering, joinable
from multistride.decode.corpus import source_batch
from multistride.decode.ending import Ending
from multistride.decode.hypothesis import Group, Hypothesis
from multistride.decode.loop import JoinableBatch
from multistride.decode.options import Mode
from multistride.decode.plan import Plan
from multistride.decode.state import DecodeState
from multistride.decode.step import StepModel
from multistride.serve.errors import Draining, HttpProblem, QueueFull
from multistride.serve.metrics import Metrics

logger = logging.getLogger(__name__)

PATIENCE = 30.0
"""Seconds within which a full queue is expected to have room again, where nothing was measured."""


FULL = 16
"""Slots of a pass that keep a processor busy: batches that begin with as many need no others."""


CROWD, SHARE, HELD = 8, 4, 2
"""Beside so many running texts or more, fewer new ones than a fourth of them are held so long."""


LEARNED = 0.1
"""Weight of the last round in what is known of the rounds before."""


@dataclass(frozen=True)
class Capacity:
    """`batch_tokens`: most tokens proposed in all passes of one round; `waiting`: most requests
    that wait.
    """

    batch_tokens: int = 512
    waiting: int = 2048


class Committed(NamedTuple):
    """A group that was written for a request; `ending` says why the text is over, else None."""

    group: Group
    mode: Mode
    ending: Ending | None


@dataclass(frozen=True)
class Work:
    """One text to decode: source or prompt tokens, the plan, and limits of its own.

    `plan` holds neither the seed nor the length limit of the request, so that requests which
    differ in nothing else are decoded together.
    """

    tokens: tuple[int, ...]
    plan: Plan
    limit: int
    seed: int = 0
    name: str = ""


class Ticket:
    """One request on its way: take its groups from `lots`; `cancel` to free its row.

    Made and read on the event loop; the thread of the scheduler only reads `cancelled`.
    """

    def __init__(self, work: Work) -> None:
        self.work = work
        self.cancelled = False
        self.arrived = time.perf_counter()
        self.sent = self.written = 0
        """Tokens handed on, and those that its present batch wrote; of the scheduler alone."""
        self._items: list[Committed | HttpProblem] = []
        self._news: asyncio.Future[None] | None = None

    def cancel(self) -> None:
        """Free the row before its next pass; nothing more comes, and who waits for it goes on."""
        self.cancelled = True
        self._wake()

    def put(self, item: Committed | HttpProblem) -> None:
        """Hand on a group, or the problem that ends the request (on the event loop)."""
        self._items.append(item)
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


@dataclass
class _Running:
    """A batch that is being decoded: its tickets, in the order of its rows."""

    tickets: list[Ticket]
    state: DecodeState
    passes: Iterator[list[Hypothesis]]
    batch: JoinableBatch | None = None
    """Where others may join."""
    last: float = field(default_factory=time.perf_counter)

    @property
    def plan(self) -> Plan:
        return self.tickets[0].work.plan

    @property
    def ready(self) -> bool:
        """True if others may join now, or this batch them."""
        return self.batch is not None and self.batch.ready and not self.state.done

    def join(self, other: _Running) -> None:
        """Take over the rows of another batch of the same plan."""
        assert self.batch is not None
        assert other.batch is not None
        pairs = [*zip(self.tickets, self.state.hypotheses, strict=True)]
        pairs += zip(other.tickets, other.state.hypotheses, strict=True)
        owners = {id(hypothesis): ticket for ticket, hypothesis in pairs}
        self.batch.join(other.batch)
        self.tickets = [owners[id(hypothesis)] for hypothesis in self.state.hypotheses]

    @property
    def open_tickets(self) -> list[Ticket]:
        """The tickets of the texts that go on."""
        rows = zip(self.tickets, self.state.hypotheses, strict=True)
        return [ticket for ticket, hypothesis in rows if hypothesis.ending is None]

    @property
    def rows(self) -> int:
        return sum(hypothesis.ending is None for hypothesis in self.state.hypotheses)


class Scheduler:
    """The queue of one model, and the thread that decodes it."""

    def __init__(
        self, engine: StepModel[Any], name: str, capacity: Capacity, metrics: Metrics
    ) -> None:
        self.name, self.capacity, self.metrics = name, capacity, metrics.of(name)
        self.draining = self.broken = False
        self._engine = engine
        self._waiting: deque[Ticket] = deque()
        self._running: list[_Running] = []
        self._changed = threading.Condition()
        self._loop: asyncio.AbstractEventLoop | None = None
        self.overhead = 0.0
        """Milliseconds of a round beside its steps, for each text: what is sent, joined, awaited.
        They are the same for every group size."""
        self.expected: Callable[[int, Plan], float | None] = lambda rows, plan: None
        """The milliseconds of a step alone, where they are known."""
        self._stop = False
        self._held = 0
        self._seconds = PATIENCE / 10
        self._thread = threading.Thread(target=self._run, name=f"decode {name}", daemon=True)

    def start(self) -> None:
        """Start decoding; called on the event loop that tickets are read on."""
        self._loop = asyncio.get_running_loop()
        self._thread.start()

    def stop(self) -> None:
        """End the thread after its present pass."""
        with self._changed:
            self._stop = True
            self._changed.notify()
        if self._thread.ident is not None:
            self._thread.join(timeout=10)

    @property
    def full(self) -> bool:
        """True if no more requests may wait."""
        return len(self._waiting) >= self.capacity.waiting

    @property
    def load(self) -> int:
        """Requests that run or wait."""
        return len(self._waiting) + sum(batch.rows for batch in list(self._running))

    def submit(self, work: Work) -> Ticket:
        """Queue a request. Raises `QueueFull`, or `Draining` while the server shuts down."""
        if self.draining:
            raise Draining
        if self.full:
            raise QueueFull(len(self._waiting), self.capacity.waiting, self._seconds)
        ticket = Ticket(work)
        self.metrics.prompt_tokens.inc(len(work.tokens))
        with self._changed:
            self._waiting.append(ticket)
            self._changed.notify()
        return ticket

    def _run(self) -> None:
        """Decode until the end; should this ever fail, say so and take no more requests."""
        try:
            self._rounds()
        except Exception:
            self.broken = self.draining = True
            logger.exception("decoding %s ended by a fault of the server", self.name)
            problem = HttpProblem(500, "the server failed on this request", code="internal")
            running = [ticket for batch in self._running for ticket in batch.open_tickets]
            for ticket in [*running, *self._waiting]:
                self._on_loop(partial(ticket.put, problem))

    def _rounds(self) -> None:
        while True:
            with self._changed:
                while not (self._stop or self._waiting or self._running):
                    self._gauge()
                    self._changed.wait()
                if self._stop:
                    return
                groups = self._admitted()
            began = time.perf_counter()
            for tickets in groups:
                self._begin(tickets)
            self._join()
            self._gauge()
            running = [(batch.rows, batch.plan) for batch in self._running]
            for batch in list(self._running):
                self._advance(batch)
            self._observe(running, 1000 * (time.perf_counter() - began))

    def _observe(self, running: list[tuple[int, Plan]], milliseconds: float) -> None:
        """Learn how much longer a round takes than its steps alone, for each text in it."""
        rows = sum(count for count, _ in running)
        costs = [self.expected(count, plan) for count, plan in running]
        known = [cost for cost in costs if cost is not None]
        if rows and len(known) == len(costs):
            beside = max(0.0, milliseconds - sum(known)) / rows
            self.overhead += LEARNED * (beside - self.overhead)

    def _gauge(self) -> None:
        self.metrics.running.set(sum(batch.rows for batch in self._running))
        self.metrics.waiting.set(len(self._waiting))

    def _admitted(self) -> list[list[Ticket]]:
        """Take from the queue, in order, what the token budget of a round has room for.

        Beside many running texts a few new ones wait for others, at most `HELD` rounds: to begin
        and to join costs nearly as much for one text as for ten.
        """
        running = sum(batch.rows for batch in self._running)
        if running >= CROWD and SHARE * len(self._waiting) < running and self._held < HELD:
            self._held += 1
            return []
        self._held = 0
        used = sum(batch.rows * batch.plan.group_size for batch in self._running)
        chosen: dict[int, list[Ticket]] = {}
        while self._waiting:
            ticket = self._waiting[0]
            size = ticket.work.plan.group_size
            if used and not ticket.cancelled and used + size > self.capacity.batch_tokens:
                break
            self._waiting.popleft()
            if not ticket.cancelled:
                chosen.setdefault(id(ticket.work.plan), []).append(ticket)
                used += size
        return list(chosen.values())

    def _begin(self, tickets: list[Ticket], alone: bool = False) -> None:
        """Begin a batch, one that no other joins if `alone`; of one that fails every request is
        tried alone.
        """
        try:
            self._running.append(self._begun(tickets, alone))
        except Exception as error:
            self._failed(tickets, error)

    @torch.inference_mode()
    def _begun(self, tickets: list[Ticket], alone: bool) -> _Running:
        works = [ticket.work for ticket in tickets]
        plan = works[0].plan
        for ticket in tickets:
            ticket.written = 0
        rows = Rows([work.limit for work in works], [work.seed for work in works])
        sources = source_batch([work.tokens for work in works], self._engine.config)
        if not alone and gathering(self._engine, plan) is None:
            alone = len(tickets) * plan.group_size >= FULL
            alone = alone or all(batch.plan is not plan for batch in self._running)
            alone = alone or not joinable(self._engine, plan)
        if alone:
            return _Running(tickets, *begin_batch(self._engine, *sources, plan, rows))
        begun = begin_joinable(self._engine, *sources, plan, rows)
        return _Running(tickets, begun.state, begun.passes(plan.rules.prefix), begun)

    @torch.inference_mode()
    def _join(self) -> None:
        """Let batches of one plan become one, the younger join the oldest."""
        hosts: dict[int, _Running] = {}
        for batch in list(self._running):
            if not batch.ready:
                continue
            host = hosts.setdefault(id(batch.plan), batch)
            if host is batch:
                continue
            self._running.remove(batch)
            tickets = [*host.open_tickets, *batch.open_tickets]
            try:
                host.join(batch)
            except Exception as error:
                self._running.remove(host)
                del hosts[id(batch.plan)]
                self._failed(tickets, error)

    @torch.inference_mode()
    def _advance(self, batch: _Running) -> None:
        """Make one pass of a batch, and hand on what it wrote."""
        for row, ticket in enumerate(batch.tickets):
            if ticket.cancelled:
                batch.state.cancel(row)
        try:
            written = [] if batch.state.done else next(batch.passes, [])
        except Exception as error:
            self._running.remove(batch)
            self._failed(batch.open_tickets, error)
            return
        if written:
            self.metrics.steps.inc()
        deliveries = [
            (ticket, committed)
            for hypothesis in written
            if not (ticket := batch.tickets[hypothesis.row]).cancelled
            and (committed := self._committed(ticket, hypothesis, batch.plan)) is not None
        ]
        if deliveries:
            self._deliver(deliveries)
        self._count(batch, deliveries)
        if batch.state.done:
            self._running.remove(batch)

    def _committed(self, ticket: Ticket, hypothesis: Hypothesis, plan: Plan) -> Committed | None:
        """Return the last group of a text, less what a failed batch had handed on of it."""
        group = hypothesis.groups[-1]
        ticket.written += len(group.tokens)
        fresh = ticket.written - ticket.sent
        if fresh <= 0:
            return None
        ticket.sent = ticket.written
        return Committed(
            group if fresh >= len(group.tokens) else _last(group, fresh),
            plan.mode,
            hypothesis.ending,
        )

    def _deliver(self, deliveries: list[tuple[Ticket, Committed]]) -> None:
        def put() -> None:
            for ticket, committed in deliveries:
                ticket.put(committed)

        self._on_loop(put)

    def _on_loop(self, call: Callable[[], None]) -> None:
        assert self._loop is not None
        try:
            self._loop.call_soon_threadsafe(call)
        except RuntimeError:  # the loop is closed: nobody waits for an answer
            self._stop = True

    def _failed(self, tickets: list[Ticket], error: Exception) -> None:
        """Try every request of a failed batch alone; one that fails alone gets a 500."""
        if len(tickets) > 1:
            logger.warning(
                "a batch of %d requests failed; each is tried alone: %s", len(tickets), error
            )
            for ticket in tickets:
                self._begin([ticket], alone=True)
            return
        for ticket in tickets:
            logger.error("request %s failed", ticket.work.name, exc_info=error)
            problem = HttpProblem(500, "the server failed on this request", code="internal")
            self._on_loop(partial(ticket.put, problem))

    def _count(self, batch: _Running, deliveries: list[tuple[Ticket, Committed]]) -> None:
        now, metrics, mode = time.perf_counter(), self.metrics, batch.plan.mode
        sizes, between = Counter[int](), Counter[int]()
        accepted = 0
        for ticket, committed in deliveries:
            group = committed.group
            kept = len(group.tokens)
            sizes[group.group_size] += 1
            accepted += max(kept - 1, 0)
            if ticket.sent == kept:
                metrics.first.observe(now - ticket.arrived)
            else:
                between[kept] += 1
            if committed.ending is not None:
                metrics.whole.observe(now - ticket.arrived)
                metrics.ended(committed.ending).inc()
                self._seconds += 0.1 * (now - ticket.arrived - self._seconds)
        for size, count in sizes.items():  # few: a batch proposes the same for all its rows
            metrics.of_mode(mode).observe_all(size, count)
        for kept, count in between.items():
            metrics.between.observe_all((now - batch.last) / kept, count)
        metrics.tokens.inc(sum(len(committed.group.tokens) for _, committed in deliveries))
        if mode == "exact":
            drafted = sum(max(size - 1, 0) * count for size, count in sizes.items())
            metrics.drafted.inc(drafted)
            metrics.accepted.inc(accepted)
        batch.last = now


def _last(group: Group, count: int) -> Group:
    """Return the last tokens of a group as a group."""
    return Group(
        group.step,
        group.group_size,
        group.tokens[-count:],
        group.log_probabilities[-count:],
        group.milliseconds,
        group.reason,
    )
