"""Decoding is a sentence: propose, pick, accept, commit. This is the one loop that says it.

A `Writer` knows how one way of decoding proposes, picks and accepts: `GroupWriter` the groups of
fast and adaptive mode, `exact.Drafter` drafts that are checked. An engine may bring a loop of its
own (`Loop`) where it has a shorter way; what it writes is what this loop writes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Generic, Protocol, runtime_checkable

from jaxtyping import Int
from torch import Tensor

from multistride.decode.accept import Acceptor, accept_all
from multistride.decode.chances import Chances
from multistride.decode.choosing.policy import Policy
from multistride.decode.hypothesis import Hypothesis, Running
from multistride.decode.markov import greedy_for
from multistride.decode.pick import Picked, Picker, left_aligned
from multistride.decode.prefix import read_prefix
from multistride.decode.state import DecodeState
from multistride.decode.step import JoinableMemory, M, StepModel, reading
from multistride.decode.writer import Proposed, Writer

Loop = Callable[
    [Int[Tensor, "B S"] | None, Int[Tensor, "B"] | None, DecodeState], Iterator[list[Hypothesis]]
]
"""Sources with their lengths (None: a causal model) and the state of their batch, to the passes
that decode it."""


@runtime_checkable
class JoinableBatch(Protocol):
    """A batch that others of the same plan may join between two passes: `RunningBatch`, or that of
    an engine.
    """

    ready: bool
    """True if another batch may join it, or it another."""

    @property
    def state(self) -> Running:
        """Return the texts of the batch."""

    def passes(self, prefix: tuple[int, ...]) -> Iterator[list[Hypothesis]]:
        """Write until every text is over; after each pass, yield the texts it wrote into."""

    def join(self, other: Any) -> None:
        """Take over the rows of another batch of the same kind, which must not be used
        afterwards.
        """


Gathering = Callable[[Int[Tensor, "B S"], Int[Tensor, "B"], Running], JoinableBatch]
"""Sources with their lengths and the texts of their batch, to a batch that others may join."""


class GroupWriter(Generic[M]):
    """Groups as the paper writes them, or by masks behind known tokens (`lookahead`).

    In the lookahead layout known tokens are read as at K=1 and masks stand for those that a group
    writes behind its first; the masks are forgotten, so no step depends on where earlier ones
    ended.
    """

    def __init__(
        self,
        engine: StepModel[M],
        policy: Policy,
        pick: Picker | None = None,
        accept: Acceptor = accept_all,
        lookahead: bool = False,
        chances: Chances | None = None,
    ) -> None:
        """`pick` is None for the most probable tokens; `chances` are those that it draws by."""
        self.engine = engine
        self._policy, self._accept, self._lookahead = policy, accept, lookahead
        self._chances = chances
        self._pick = greedy_for(engine.config, engine.markov) if pick is None else pick

    @property
    def prefix_size(self) -> int | None:
        """Clean slots in the lookahead layout, else the size of the first group."""
        return 1 if self._lookahead else None

    def propose(self, state: DecodeState) -> Proposed:
        """Return the slots of every row's next group."""
        sizes, reasons = self._policy(state)
        mask = self.engine.config.mask_token
        slots = state.clean_slots(sizes, mask) if self._lookahead else state.slots(sizes)
        return Proposed(slots, sizes, reasons)

    def pick(self, proposed: Proposed, memory: M) -> Picked:
        """Pick a token for every slot of the groups."""
        assert isinstance(proposed.sizes, Tensor)
        return self._pick(left_aligned(self.engine.step(proposed.slots, memory), proposed.sizes))

    def accept(self, picked: Picked, proposed: Proposed, memory: M) -> Int[Tensor, "R"]:
        """Return how much of each group is kept; masks are forgotten."""
        assert isinstance(proposed.sizes, Tensor)
        kept = self._accept(picked, proposed.sizes)
        if self._lookahead:
            memory.truncate(proposed.sizes - 1)
        return kept

    def leave(self, stay: Int[Tensor, "R"]) -> None:
        """Keep the given rows: there is nothing to keep of them."""

    def join(self, other: Any) -> None:
        """Take over the rows of another writer of the same plan: the chances they draw by."""
        if self._chances is not None:
            self._chances.join(other._chances)


@dataclass
class RunningBatch(Generic[M]):
    """A batch while it is decoded: its state, what the engine keeps of it, and its writer."""

    engine: StepModel[M]
    state: DecodeState
    writer: Writer[M]
    memory: M
    ready: bool = False
    """True if another batch may join it, or it another: prompts and prefix are read."""

    @classmethod
    def started(
        cls,
        engine: StepModel[M],
        source: Int[Tensor, "B S"] | None,
        lengths: Int[Tensor, "B"] | None,
        state: DecodeState,
        writer: Writer[M],
    ) -> RunningBatch[M]:
        """Return a batch whose sources are encoded; prompts are still to be read."""
        return cls(engine, state, writer, engine.start(source, lengths))

    def read_prompts(self) -> Iterator[list[Hypothesis]]:
        """Read the prompts, one pass at a time; no pass writes into a text."""
        read = reading(self.engine)
        for slots in self.state.prompt_slots():
            read(slots, self.memory)
            yield []

    def begin(self, prefix: tuple[int, ...]) -> list[Hypothesis]:
        """Write a given prefix into every row, in one pass; return the rows."""
        began, state = time.perf_counter(), self.state
        size = self.writer.prefix_size or _largest(self.writer.propose(state).sizes)
        read = read_prefix(self.engine, self.memory, len(state.running), prefix, size)
        return state.begin(*read, 1000 * (time.perf_counter() - began))

    def passes(self, prefix: tuple[int, ...]) -> Iterator[list[Hypothesis]]:
        """Write until every text is over, as `decode` does."""
        yield from self.read_prompts()
        if prefix and not self.state.done:
            yield self.begin(prefix)
            self.leave()
        self.ready = True
        while not self.state.done:
            yield self.write()
            self.leave()

    def write(self) -> list[Hypothesis]:
        """Propose, pick, accept and commit in one pass; return the rows it wrote into."""
        began = time.perf_counter()
        proposed = self.writer.propose(self.state)
        picked = self.writer.pick(proposed, self.memory)
        kept = self.writer.accept(picked, proposed, self.memory)
        milliseconds = 1000 * (time.perf_counter() - began)
        return self.state.commit(picked, kept, proposed.sizes, milliseconds, proposed.reasons)

    def join(self, other: RunningBatch[M]) -> None:
        """Take over the rows of another batch of the same plan; both are `ready`, between passes.

        Texts that are over leave both first, and rows are numbered anew. The other batch must not
        be used afterwards.
        """
        self.leave()
        other.leave()
        if other.state.done:
            return
        assert isinstance(self.memory, JoinableMemory)
        self.memory.join(other.memory)
        self.writer.join(other.writer)
        self.state.join(other.state)

    def leave(self) -> None:
        """Take the rows that are over out of the batch."""
        stay = self.state.leave()
        if stay is not None and not self.state.done:
            self.memory.reorder(stay)
            self.writer.leave(stay)


def decode(
    engine: StepModel[M],
    source: Int[Tensor, "B S"] | None,
    lengths: Int[Tensor, "B"] | None,
    state: DecodeState,
    writer: Writer[M],
    prefix: tuple[int, ...] = (),
) -> Iterator[list[Hypothesis]]:
    """Write until every text is over; after each pass, yield the texts it wrote into.

    Passes that read a prompt write into none. `source` is None for a causal model. Texts begin with
    `prefix`. The result is in `state.hypotheses`.
    """
    yield from RunningBatch.started(engine, source, lengths, state, writer).passes(prefix)


def _largest(sizes: int | Int[Tensor, "R"]) -> int:
    return sizes if isinstance(sizes, int) else int(sizes.max())
