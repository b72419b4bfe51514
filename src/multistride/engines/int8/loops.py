"""The int8 engine's own loops: what `decode.loop.decode` writes, by shorter ways.

Tests hold every one of them to the plain loop. The even and the single loop make no tensors, which
in a small model cost as much as the network does.

Source of checking drafts: Stern, Shazeer and Uszkoreit 2018, arXiv 1811.03115. Shapes: R rows still
running, C clean slots, D drafts, F rows that are drafted for.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import NamedTuple, Protocol, TypeVar, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from multistride.decode.accept import verified_prefix
from multistride.decode.choosing.economy import Economy
from multistride.decode.copying import Copied, PhraseDrafter
from multistride.decode.even import EvenSteps, KeptRows, decode_even
from multistride.decode.exact import Drafter
from multistride.decode.hypothesis import Hypothesis
from multistride.decode.loop import Loop, decode
from multistride.decode.pick import Picked
from multistride.decode.plan import Plan
from multistride.decode.state import DecodeState
from multistride.decode.step import Memory
from multistride.decode.thrift import thrifty
from multistride.decode.writer import Proposed, Writer
from multistride.engines.quick import PickedGroups, PickingEngine
from multistride.groups import Slots


class Checked(NamedTuple):
    """Greedy tokens of the clean slots of a pass, and the drafts of its masks.

    A row's drafts are chained from the token picked in the last of its clean slots. They are made
    when `draft` is called with the rows that want them, which must be before the next step.
    """

    tokens: Int[Tensor, "B C"]
    log_probabilities: Float[Tensor, "B C"]
    draft: Callable[[Int[Tensor, "F"]], Int[Tensor, "F D"]]
    states: Float[Tensor, "B C D"] | None = None
    """The last states of the clean slots, where the engine has them as the model computes them."""


class Read(NamedTuple):
    """`Checked` for a single sentence, without tensors."""

    tokens: list[int]
    log_probabilities: list[float]
    draft: Callable[[], list[int]]


class EvenMemory(Memory, KeptRows, Protocol):
    """A memory that may be stepped evenly."""


M = TypeVar("M", bound=EvenMemory)


@runtime_checkable
class QuickEngine(PickingEngine[M], EvenSteps[M], Protocol[M]):
    """An engine that picks, checks and drafts itself."""

    def step_checked(self, slots: Slots, memory: M, masks: int) -> Checked:
        """Pick in every slot but the last `masks`, from which drafts are made.

        All slots join the memory. Tokens and numbers are those that `step` and the greedy pickers
        give, but for rounding; drafts may differ, where an engine does not look at all of a large
        vocabulary.
        """

    def step_single(self, clean: list[int], position: int, masks: int, memory: M) -> Read:
        """Read tokens in clean slots, the first of which predicts `position`, and draft by `masks`
        behind them.

        It is what `step_checked` gives for the slots of `groups.draft_slots`. All steps of a memory
        are of this kind.
        """

    def forget(self, count: int, memory: M) -> None:
        """Forget the last `count` slots of such a memory."""


def shortcut(engine: QuickEngine[M], plan: Plan, rows: int) -> Loop | None:
    """Return the shortest loop for a batch of `rows` texts; None where only the plain one will
    do.
    """
    config, size = engine.config, plan.group_size
    if not plan.greedy:
        return None
    if plan.free and config.encoder_layers:
        if plan.whole_groups:
            return lambda source, lengths, state: decode_even(
                engine, engine.start(source, lengths), state, size
            )
        if plan.mode == "exact" and plan.drafts == "masks" and rows == 1 and _picks(engine, plan):
            return lambda source, lengths, state: decode_single(
                engine, source, lengths, state, size, plan.economy
            )
    if not _picks(engine, plan):
        return None

    def loop(
        source: Int[Tensor, "B S"] | None, lengths: Int[Tensor, "B"] | None, state: DecodeState
    ) -> Iterator[list[Hypothesis]]:
        own = writer(engine, plan, state)
        assert own is not None
        return decode(engine, source, lengths, state, own, plan.rules.prefix)

    return loop


def writer(engine: QuickEngine[M], plan: Plan, state: DecodeState) -> Writer[M] | None:
    """Return a writer of the plain loop that picks by the engine; None where there is none."""
    if not _picks(engine, plan):
        return None
    if plan.mode != "exact":
        return PickedGroups(engine, plan.policy, plan.accept, plan.layout == "lookahead")
    if plan.drafts == "masks":
        return thrifty(QuickDrafter(engine, len(state.running), plan.group_size), plan.economy)
    head = plan.knowledge.head if plan.drafts == "head" else None
    copied = Copied(plan.knowledge.phrases, False, plan.rules.prefix, head)
    return thrifty(QuickPhraseDrafter(engine, state, plan.group_size, copied), plan.economy)


def _picks(engine: QuickEngine[M], plan: Plan) -> bool:
    """True if the engine picks itself: the most probable tokens, and drafts of one kind."""
    if plan.mode != "exact":
        return plan.greedy
    return plan.greedy and plan.drafts != "both" and engine.config.adapter is None


class QuickDrafter(Drafter[M]):
    """Drafts by masks behind the last draft, picked and checked by the engine itself."""

    def __init__(self, engine: QuickEngine[M], rows: int, group_size: int) -> None:
        super().__init__(engine, rows, group_size)
        assert not self.everywhere
        self._engine = engine

    def pick(self, proposed: Proposed, memory: M) -> Picked:
        """Pick what K=1 writes after the known tokens and after each draft, without logits."""
        self._checked = self._engine.step_checked(proposed.slots, memory, self.masks)
        columns = self.columns()
        return Picked(
            self._checked.tokens.gather(1, columns),
            self._checked.log_probabilities.gather(1, columns),
        )

    def accept(self, picked: Picked, proposed: Proposed, memory: M) -> Int[Tensor, "R"]:
        """Return how many tokens stand; what is of no use is forgotten, and new drafts are made."""
        kept = verified_prefix(picked.tokens, self.tokens, self.counts)
        memory.truncate(self.forgotten(kept))
        fresh = kept == self.counts + 1
        if self.masks and bool(fresh.any()):
            self.tokens[fresh] = self._checked.draft(fresh.nonzero().squeeze(1))
        self.counts = torch.where(fresh, self.masks, 0)
        return kept


class QuickPhraseDrafter(PhraseDrafter[M]):
    """Drafts copied from text, checked by the engine itself, without logits."""

    def __init__(
        self, engine: QuickEngine[M], state: DecodeState, group_size: int, sources: Copied
    ) -> None:
        super().__init__(engine, state, group_size, sources)
        assert not self.masks
        self._engine = engine

    def pick(self, proposed: Proposed, memory: M) -> Picked:
        """Pick what K=1 writes after the known tokens and after each draft, without logits."""
        checked, columns = self._engine.step_checked(proposed.slots, memory, 0), self.columns()
        self._states = checked.states
        return Picked(
            checked.tokens.gather(1, columns), checked.log_probabilities.gather(1, columns)
        )

    def accept(self, picked: Picked, proposed: Proposed, memory: M) -> Int[Tensor, "R"]:
        """Return how many tokens stand; rejected drafts are forgotten, and new ones looked up."""
        kept = verified_prefix(picked.tokens, self.tokens, self.counts)
        memory.truncate(self.forgotten(kept))
        self.guess(picked, kept)
        self.counts = torch.zeros_like(self.counts)
        self.follow(picked, kept)
        return kept


def decode_single(
    engine: QuickEngine[M],
    source: Int[Tensor, "1 S"] | None,
    lengths: Int[Tensor, "1"] | None,
    state: DecodeState,
    group_size: int,
    economy: Economy | None = None,
) -> Iterator[list[Hypothesis]]:
    """Write what K=1 writes, up to `group_size` tokens a pass, until the sentence is over; yield it
    after each.
    """
    memory = engine.start(source, lengths)
    last, drafts, written = engine.config.start_token, list[int](), 0
    while not state.done:
        began = time.perf_counter()
        drafting = economy is None or economy.drafts(1)
        masks = group_size - 1 if drafting else 0
        drafts = drafts if drafting else []
        read = engine.step_single([last, *drafts], written, masks, memory)
        kept = 1 + _agreed(read.tokens, drafts)
        engine.forget(len(drafts) + 1 - kept + masks, memory)
        drafts = read.draft() if kept == len(read.tokens) and masks else []
        last, written = read.tokens[kept - 1], written + kept
        milliseconds = 1000 * (time.perf_counter() - began)
        if economy is not None:
            economy.seen(1, drafting, float(kept), milliseconds)
        yield state.commit_even(
            [read.tokens[:kept]], [read.log_probabilities[:kept]], milliseconds, "", group_size
        )


def _agreed(tokens: list[int], drafts: list[int]) -> int:
    """Return how many drafts are what the model writes (`accept.verified_prefix`)."""
    return next(
        (place for place, draft in enumerate(drafts) if draft != tokens[place]), len(drafts)
    )
