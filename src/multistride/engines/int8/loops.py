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

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from multistride.decode.accept import verified_prefix
from multistride.decode.choosing.economy import Economy
from multistride.decode.choosing.lengths import DraftLengths
from multistride.decode.copying import (
    LIKELY,
    POSSIBLE,
    Copied,
    PhraseDrafter,
    SoFar,
    likely,
)
from multistride.decode.draft_head import DraftHead
from multistride.decode.draft_tree import DraftTree, chain
from multistride.decode.even import EvenSteps, KeptRows, decode_even
from multistride.decode.exact import Drafter
from multistride.decode.hypothesis import AS_ASKED, Hypothesis
from multistride.decode.loop import GroupWriter, Loop, decode
from multistride.decode.markov import searched
from multistride.decode.phrases import PhraseTable
from multistride.decode.pick import Picked
from multistride.decode.plan import Plan
from multistride.decode.state import PROMPT_SLOTS, DecodeState
from multistride.decode.step import Memory
from multistride.decode.thrift import thrifty
from multistride.decode.writer import Proposed, Writer
from multistride.engines.quick import PickedGroups, PickingEngine
from multistride.groups import Slots
from multistride.model.config import TransformerConfig


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
    states: Float[Tensor, "C D"] | None = None

    def along(self, path: list[int]) -> Read:
        """Return the slots of a path through a tree of drafts."""
        return Read(
            [self.tokens[slot] for slot in path],
            [self.log_probabilities[slot] for slot in path],
            self.draft,
            None if self.states is None else self.states[path],
        )


class EvenMemory(Memory, KeptRows, Protocol):
    """A memory that may be stepped evenly."""


class UnevenRows:
    """Rows of different lengths: how many slots each has, and the position it predicts next."""

    def __init__(self, slots: list[int], positions: list[int]) -> None:
        self.slots, self.positions = np.array(slots), np.array(positions)

    def grow(self) -> None:
        """Count a slot that was added to each row."""
        self.slots, self.positions = self.slots + 1, self.positions + 1

    def keep(self, stay: Int[np.ndarray, "R"]) -> None:
        """Keep the given rows."""
        self.slots, self.positions = self.slots[stay], self.positions[stay]


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

    @property
    def reads_trees(self) -> bool:
        """True if `step_tree` gives a slot the same bits as `step_single`."""

    def step_tree(self, last: int, tree: DraftTree, position: int, memory: M) -> Read:
        """Read the last token, in a slot that predicts `position`, and all drafts of a tree."""

    def keep_path(self, path: list[int], tree: DraftTree, memory: M) -> None:
        """Forget all slots of the last `step_tree` but those of a path, in ascending order."""

    def read_single(self, clean: list[int], position: int, memory: M) -> None:
        """Read tokens of a prompt in clean slots, the first of which predicts `position`."""

    def forget(self, count: int, memory: M) -> None:
        """Forget the last `count` slots of such a memory."""

    def read(self, slots: Slots, memory: M) -> None:
        """Let slots join the memory; no logits are computed."""

    def step_uneven(
        self, tokens: Int[np.ndarray, "R"], rows: UnevenRows, memory: M
    ) -> tuple[Int[np.ndarray, "R 1"], Float[np.ndarray, "R 1"]]:
        """Return what K=1 writes behind the last `tokens` of rows, and its log-probabilities."""

    def step_searched(
        self, slots: Slots, memory: M, size: int, beam: int
    ) -> tuple[Int[Tensor, "B K"], Float[Tensor, "B K"]]:
        """Return what `searched` picks in the last `size` slots, if the engine `searches`.

        All slots join the memory. Tokens and numbers are those of `decode.markov.searched`, but for
        rounding.
        """

    def own_head(self, head: DraftHead) -> DraftHead:
        """Return a draft head that drafts the same, but for rounding, computed by the engine."""


def shortcut(engine: QuickEngine[M], plan: Plan, rows: int) -> Loop | None:
    """Return the shortest loop for a batch of `rows` texts; None where only the plain one will
    do.
    """
    config, size, beam = engine.config, plan.group_size, plan.group_beam
    if plan.free and config.encoder_layers and plan.whole_groups and engine.searches(beam):
        return lambda source, lengths, state: decode_even(
            engine, engine.start(source, lengths), state, size, beam
        )
    if not plan.plain:
        return None
    if rows == 1 and (single := _single(engine, plan)) is not None:
        return single
    if plan.whole_groups and size == 1 and not (config.encoder_layers or plan.rules.prefix):
        return lambda source, lengths, state: decode_prompts(engine, state)
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
    if plan.mode != "exact" and plan.group_beam > 1:
        return SearchedGroups(engine, plan)
    if plan.mode != "exact":
        return PickedGroups(engine, plan.policy, plan.accept, plan.layout == "lookahead")
    if plan.drafts == "masks":
        return thrifty(QuickDrafter(engine, len(state.running), plan.group_size), plan.economy)
    copied = Copied(plan.knowledge.phrases, False, plan.rules.prefix, _head(engine, plan))
    return thrifty(QuickPhraseDrafter(engine, state, plan.group_size, copied), plan.economy)


def _head(engine: QuickEngine[M], plan: Plan) -> DraftHead | None:
    """Return the draft head that the plan asks for, as the engine computes it."""
    head = plan.knowledge.head if plan.drafts == "head" else None
    return None if head is None else engine.own_head(head)


def _picks(engine: QuickEngine[M], plan: Plan) -> bool:
    """True if the engine picks itself: the most probable tokens or groups, and drafts of one
    kind.
    """
    if plan.mode != "exact":
        return plan.plain and engine.searches(plan.group_beam)
    return (
        plan.greedy and plan.drafts not in ("all-masks", "both") and engine.config.adapter is None
    )


class SearchedGroups(GroupWriter[M]):
    """Groups that a beam finds, searched by the engine where all rows ask for as many tokens."""

    def __init__(self, engine: QuickEngine[M], plan: Plan) -> None:
        assert engine.markov is not None, "a group is searched with a Markov head"
        slow = searched(engine.config, engine.markov, plan.group_beam)
        super().__init__(engine, plan.policy, slow, plan.accept, plan.layout == "lookahead")
        self._quick, self._beam = engine, plan.group_beam

    def pick(self, proposed: Proposed, memory: M) -> Picked:
        """Pick a token for every slot of the groups."""
        assert isinstance(proposed.sizes, Tensor)
        widest = int(proposed.sizes.max())
        if int(proposed.sizes.min()) != widest:
            return super().pick(proposed, memory)
        return Picked(*self._quick.step_searched(proposed.slots, memory, widest, self._beam))


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


class Drafting(NamedTuple):
    """Choices for drafting a single text: up to `group_size` tokens a pass, the first not drafted.

    Drafts come from masks, or if `copied` from the text so far, the `head` and a `table` of
    phrases.
    """

    group_size: int
    copied: bool = False
    table: PhraseTable | None = None
    head: DraftHead | None = None
    trees: bool = False
    """The head drafts trees."""
    economy: Economy | None = None
    reason: str = ""
    """Recorded with every group: why it has its size."""


def _single(engine: QuickEngine[M], plan: Plan) -> Loop | None:
    """Return the loop for a single text; None where only loops with tensors will do."""
    if plan.rules.prefix or not _picks(engine, plan):
        return None
    if plan.mode != "exact":
        drafting = Drafting(1, reason=AS_ASKED)
        if not (plan.whole_groups and plan.group_size == 1):
            return None
    else:
        sources = plan.drafts != "masks", plan.knowledge.phrases, _head(engine, plan)
        drafting = Drafting(plan.group_size, *sources, engine.reads_trees, plan.economy)
    return lambda source, lengths, state: decode_single(engine, source, lengths, state, drafting)


def decode_single(
    engine: QuickEngine[M],
    source: Int[Tensor, "1 S"] | None,
    lengths: Int[Tensor, "1"] | None,
    state: DecodeState,
    drafting: Drafting,
) -> Iterator[list[Hypothesis]]:
    """Write what K=1 writes until the text is over; yield it after each pass.

    Passes that read a part of the prompt yield nothing.
    """
    memory, [known] = engine.start(source, lengths), state.known()
    for tokens, position in _prompt(known, engine.config):
        engine.read_single(tokens, position, memory)
        yield []
    last, position = known[-1] if known else engine.config.start_token, len(known)
    drafter = _Copies(known, drafting) if drafting.copied else _Masks(drafting)
    while not state.done:
        began = time.perf_counter()
        tree, masks = drafter.propose()
        if tree.is_chain:
            read = engine.step_single([last, *tree.tokens], position, masks, memory)
            kept = len(tree.standing(read.tokens))
            engine.forget(len(tree.tokens) + 1 - kept + masks, memory)
        else:
            every = engine.step_tree(last, tree, position, memory)
            path = tree.standing(every.tokens)
            engine.keep_path(path, tree, memory)
            read, kept = every.along(path), len(path)
        last, position = read.tokens[kept - 1], position + kept
        drafter.accept(read, kept, began)
        yield state.commit_even(
            [read.tokens[:kept]],
            [read.log_probabilities[:kept]],
            1000 * (time.perf_counter() - began),
            drafting.reason,
            drafting.group_size,
        )


def decode_prompts(engine: QuickEngine[M], state: DecodeState) -> Iterator[list[Hypothesis]]:
    """Write what K=1 writes behind the prompts of a causal model; yield the texts of each pass."""
    memory, known, config = engine.start(None, None), state.known(), engine.config
    for slots in state.prompt_slots():
        engine.read(slots, memory)
        yield []
    rows = UnevenRows(
        [max(len(prompt) - (not config.start_symbol), 0) for prompt in known],
        [len(prompt) for prompt in known],
    )
    tokens = np.array([prompt[-1] if prompt else config.start_token for prompt in known])
    while not state.done:
        began = time.perf_counter()
        picked, log_probabilities = engine.step_uneven(tokens, rows, memory)
        rows.grow()
        tokens = picked[:, 0]
        milliseconds = 1000 * (time.perf_counter() - began)
        yield state.commit_even(picked.tolist(), log_probabilities.tolist(), milliseconds, AS_ASKED)
        if (places := state.leave_even()) is not None and not state.done:
            stay = np.array(places)
            memory.keep(stay)
            rows.keep(stay)
            tokens = tokens[stay]


def _prompt(known: list[int], config: TransformerConfig) -> Iterator[tuple[list[int], int]]:
    """Yield the tokens that are read before the first step, and the position of each part.

    The first step reads the last token of the prompt.
    """
    tokens = [*[config.start_token] * config.start_symbol, *known][:-1]
    for first in range(0, len(tokens), PROMPT_SLOTS):
        yield tokens[first : first + PROMPT_SLOTS], first + 1 - config.start_symbol


class _Masks:
    """Drafts of a single text by masks behind the last draft; none after a wrong one."""

    def __init__(self, drafting: Drafting) -> None:
        self._most, self._economy = drafting.group_size - 1, drafting.economy
        self._drafts, self._drafting = list[int](), True

    def propose(self) -> tuple[DraftTree, int]:
        """Return the drafts to check and the number of masks behind them."""
        self._drafting = self._economy is None or self._economy.drafts(1)
        if not self._drafting:
            self._drafts = []
        return chain(self._drafts), self._most if self._drafting else 0

    def accept(self, read: Read, kept: int, began: float) -> None:
        """Draft anew, if all drafts of a pass stand, and count what the pass cost."""
        fresh = kept == len(read.tokens) and self._drafting and self._most
        self._drafts = read.draft() if fresh else []
        if self._economy is not None:
            milliseconds = 1000 * (time.perf_counter() - began)
            self._economy.seen(1, self._drafting, float(kept), milliseconds)


HEAD = -1
"""The kind of source that a draft head is (`DraftLengths`); others are lengths of phrases."""


class _Copies:
    """Drafts of a single text from the text so far, else by the head, else from the table."""

    def __init__(self, known: list[int], drafting: Drafting) -> None:
        self._text, self._most, self._table = SoFar(known), drafting.group_size - 1, drafting.table
        self._lengths = None if drafting.economy is None else drafting.economy.lengths
        self._head, self._trees = drafting.head, drafting.trees
        self._state: Float[Tensor, "1 D"] | None = None
        self._source, self._tree = 0, chain([])

    def propose(self) -> tuple[DraftTree, int]:
        """Return the drafts to check, and 0: there are no masks."""
        self._source, drafts = self._text.match(self._most) if self._most else (0, [])
        self._tree = chain(drafts)
        if not drafts and self._most:
            self._tree = self._guessed()
            self._source = HEAD if self._tree.tokens else 0
        if not self._tree.tokens and self._most and self._table is not None:
            self._tree = chain(self._table.following(self._text.tokens, self._most))
        if self._lengths is not None:
            self._tree = self._tree.first(self._worth(self._lengths))
        return self._tree, 0

    def _guessed(self) -> DraftTree:
        """Return the drafts of the head behind the last token."""
        if self._head is None or self._state is None:
            return chain([])
        last = self._text.tokens[-1]
        if self._trees:
            return self._head.grow(self._state[0], last, self._most, POSSIBLE)
        guessed = self._head.guess(self._state, torch.tensor([last]), self._most, LIKELY)
        return chain(likely(guessed)[0])

    def _worth(self, lengths: DraftLengths) -> int:
        """Return how many of the drafts are worth their slots."""
        if self._tree.chances:
            return lengths.worth(self._source, self._tree.chances)
        return lengths.count(self._source, len(self._tree.tokens))

    def accept(self, read: Read, kept: int, began: float) -> None:
        """Add what stands to the text, and count what the pass brought and cost."""
        self._text.extend(read.tokens[:kept])
        self._state = None if read.states is None else read.states[kept - 1 : kept]
        if self._lengths is not None:
            milliseconds, count = 1000 * (time.perf_counter() - began), len(self._tree.tokens)
            self._lengths.seen(self._source, count, kept - 1, milliseconds, self._tree.chances)
