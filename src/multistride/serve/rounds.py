"""Continuous batching: requests join at the next step, and leave it when their text is over.

What waits is begun in batches of one plan (mode, group size, rules). A batch that is begun while
others run takes turns with them, one pass each, so a new request never waits for older texts to
end, and joins one of the same plan as soon as its prompts are read. Row limits and seeds belong to
the request, and rows of a batch do not see each other: an answer does not depend on who shares its
batch.

Where the engine has no way of its own to gather rows (`decode.batch.gathering`), a batch that
begins alone, or large, takes the engine's shortest loop, which no other can join.

Source of scheduling by passes instead of whole batches: Yu et al. 2022, Orca (OSDI 22).
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch

from multistride.decode.batch import Rows, begin_batch, begin_joinable, gathering, joinable
from multistride.decode.corpus import source_batch
from multistride.decode.hypothesis import Group, Hypothesis, Running
from multistride.decode.loop import JoinableBatch
from multistride.decode.plan import Plan
from multistride.decode.step import StepModel
from multistride.serve.orders import Cancel, Capacity, Mail, Order, Report, Work, Written
from multistride.serve.plans import Plans

logger = logging.getLogger(__name__)


FULL = 16
"""Slots of a pass that keep a processor busy: batches that begin with as many need no others."""


CROWD, SHARE, HELD = 8, 4, 2
"""Beside so many running texts or more, fewer new ones than a fourth of them are held so long."""


LEARNED = 0.1
"""Weight of the last round in what is known of the rounds before."""


@dataclass(eq=False)
class _Job:
    """A request while it waits or runs."""

    work: Work
    plan: Plan
    cancelled: bool = False
    sent: int = 0
    """Tokens handed on."""
    written: int = 0
    """Tokens that its present batch wrote."""


@dataclass
class _Running:
    """A batch that is being decoded: its jobs, in the order of its rows."""

    jobs: list[_Job]
    state: Running
    passes: Iterator[list[Hypothesis]]
    batch: JoinableBatch | None = None
    """Where others may join."""
    last: float = field(default_factory=time.perf_counter)

    @property
    def plan(self) -> Plan:
        return self.jobs[0].plan

    @property
    def ready(self) -> bool:
        """True if others may join now, or this batch them."""
        return self.batch is not None and self.batch.ready and not self.state.done

    def join(self, other: _Running) -> None:
        """Take over the rows of another batch of the same plan."""
        assert self.batch is not None
        assert other.batch is not None
        pairs = [*zip(self.jobs, self.state.hypotheses, strict=True)]
        pairs += zip(other.jobs, other.state.hypotheses, strict=True)
        owners = {id(hypothesis): job for job, hypothesis in pairs}
        self.batch.join(other.batch)
        self.jobs = [owners[id(hypothesis)] for hypothesis in self.state.hypotheses]

    def cancel(self) -> tuple[int, ...]:
        """Free the rows of cancelled requests; return their keys."""
        rows = zip(self.jobs, self.state.hypotheses, strict=True)
        freed = [job for job, hypothesis in rows if job.cancelled and hypothesis.ending is None]
        for job in freed:
            self.state.cancel(self.jobs.index(job))
        return tuple(job.work.key for job in freed)

    @property
    def rows(self) -> int:
        return sum(hypothesis.ending is None for hypothesis in self.state.hypotheses)


class Rounds:
    """The decoding of all requests of one model, one round of passes after the other."""

    def __init__(
        self, engine: StepModel[Any], plans: Plans, capacity: Capacity, mail: Mail
    ) -> None:
        self.overhead = 0.0
        """Milliseconds of a round beside its steps, for each text: what is sent, joined, awaited.
        They are the same for every group size."""
        self._engine, self._plans, self._capacity, self._mail = engine, plans, capacity, mail
        self._jobs: dict[int, _Job] = {}
        self._waiting: deque[_Job] = deque()
        self._running: list[_Running] = []
        self._held = 0

    def run(self) -> None:
        """Decode what is ordered until the end of the orders."""
        while (orders := self._mail.orders(wait=not (self._waiting or self._running))) is not None:
            self._take(orders)
            groups = self._admitted()
            began = time.perf_counter()
            for jobs in groups:
                self._begin(jobs)
            self._join()
            running = [(batch.rows, batch.plan) for batch in self._running]
            for batch in list(self._running):
                self._advance(batch)
            self._observe(running, 1000 * (time.perf_counter() - began))

    def _take(self, orders: Iterable[Order]) -> None:
        """Put new requests into the queue, and take cancelled ones out of it."""
        gone = []
        for order in orders:
            if isinstance(order, Work):
                job = _Job(order, self._plans.of(order.choices)[1])
                self._jobs[order.key] = job
                self._waiting.append(job)
            elif isinstance(order, Cancel) and (found := self._jobs.get(order.key)) is not None:
                found.cancelled = True
                if found in self._waiting:
                    self._waiting.remove(found)
                    gone.append(order.key)
        if gone:
            self._send(Report(self._rows, gone=tuple(gone)))

    @property
    def _rows(self) -> int:
        return sum(batch.rows for batch in self._running)

    def _send(self, report: Report) -> None:
        """Report, and forget the requests that are over."""
        ended = (written.key for written in report.written if written.ending is not None)
        for key in (*ended, *report.failed, *report.gone):
            del self._jobs[key]
        self._mail.send(report)

    def _observe(self, running: list[tuple[int, Plan]], milliseconds: float) -> None:
        """Learn how much longer a round takes than its steps alone, for each text in it."""
        rows = sum(count for count, _ in running)
        costs = [self._plans.cost(count, plan) for count, plan in running]
        known = [cost for cost in costs if cost is not None]
        if rows and len(known) == len(costs):
            beside = max(0.0, milliseconds - sum(known)) / rows
            self.overhead += LEARNED * (beside - self.overhead)

    def _admitted(self) -> list[list[_Job]]:
        """Take from the queue, in order, what the token budget of a round has room for.

        Beside many running texts a few new ones wait for others, at most `HELD` rounds: to begin
        and to join costs nearly as much for one text as for ten.
        """
        running = self._rows
        few = 0 < SHARE * len(self._waiting) < running
        if running >= CROWD and few and self._held < HELD:
            self._held += 1
            return []
        self._held = 0
        used = sum(batch.rows * batch.plan.group_size for batch in self._running)
        chosen: dict[int, list[_Job]] = {}
        while self._waiting:
            job = self._waiting[0]
            if used and used + job.plan.group_size > self._capacity.batch_tokens:
                break
            self._waiting.popleft()
            chosen.setdefault(id(job.plan), []).append(job)
            used += job.plan.group_size
        return list(chosen.values())

    def _begin(self, jobs: list[_Job], alone: bool = False) -> None:
        """Begin a batch, one that no other joins if `alone`; of one that fails every request is
        tried alone.
        """
        jobs = sorted(jobs, key=lambda job: len(job.work.tokens))  # like lengths: little padding
        try:
            self._running.append(self._begun(jobs, alone))
        except Exception as error:
            self._failed(jobs, error)

    @torch.inference_mode()
    def _begun(self, jobs: list[_Job], alone: bool) -> _Running:
        works, plan = [job.work for job in jobs], jobs[0].plan
        for job in jobs:
            job.written = 0
        rows = Rows([work.limit for work in works], [work.seed for work in works])
        sources = source_batch([work.tokens for work in works], self._engine.config)
        if not alone and gathering(self._engine, plan) is None:
            alone = len(jobs) * plan.group_size >= FULL
            alone = alone or all(batch.plan is not plan for batch in self._running)
            alone = alone or not joinable(self._engine, plan)
        if alone:
            state, passes = begin_batch(self._engine, *sources, plan, rows)
            return _Running(jobs, state, passes)
        begun = begin_joinable(self._engine, *sources, plan, rows)
        return _Running(jobs, begun.state, begun.passes(plan.rules.prefix), begun)

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
            jobs = [*self._unanswered(host), *self._unanswered(batch)]
            try:
                host.join(batch)
            except Exception as error:
                self._running.remove(host)
                del hosts[id(batch.plan)]
                self._failed(jobs, error)

    @torch.inference_mode()
    def _advance(self, batch: _Running) -> None:
        """Make one pass of a batch, and report what it wrote."""
        gone = batch.cancel()
        try:
            written = [] if batch.state.done else next(batch.passes, [])
        except Exception as error:
            self._running.remove(batch)
            if gone:
                self._send(Report(self._rows, gone=gone))
            self._failed(self._unanswered(batch), error)
            return
        now = time.perf_counter()
        news = [self._news(batch.jobs[hypothesis.row], hypothesis) for hypothesis in written]
        if batch.state.done:
            self._running.remove(batch)
        if written or gone:
            kept = tuple(each for each in news if each is not None)
            seconds, mode = now - batch.last, batch.plan.mode
            self._send(Report(self._rows, self.overhead, mode, seconds, kept, (), gone))
        batch.last = now

    def _unanswered(self, batch: _Running) -> list[_Job]:
        """Return the jobs of a batch whose end was not reported, its text over or not."""
        return [job for job in batch.jobs if job.work.key in self._jobs]

    def _news(self, job: _Job, hypothesis: Hypothesis) -> Written | None:
        """Return the last group of a text, less what a failed batch had handed on of it."""
        group = hypothesis.groups[-1]
        job.written += len(group.tokens)
        fresh = max(0, job.written - job.sent)
        if not fresh and hypothesis.ending is None:
            return None
        job.sent = max(job.sent, job.written)
        whole = fresh >= len(group.tokens)
        return Written(job.work.key, group if whole else _last(group, fresh), hypothesis.ending)

    def _failed(self, jobs: list[_Job], error: Exception) -> None:
        """Try every request of a failed batch alone; give up one that fails alone."""
        if len(jobs) > 1:
            logger.warning(
                "a batch of %d requests failed; retrying each alone: %s", len(jobs), error
            )
            for job in jobs:
                self._begin([job], alone=True)
            return
        for job in jobs:
            logger.error("request %s failed", job.work.name, exc_info=error)
            self._send(Report(self._rows, failed=(job.work.key,)))


def _last(group: Group, count: int) -> Group:
    """Return the last tokens of a group as a group."""
    first = len(group.tokens) - count
    return Group(
        group.step,
        group.group_size,
        group.tokens[first:],
        group.log_probabilities[first:],
        group.milliseconds,
        group.reason,
    )
