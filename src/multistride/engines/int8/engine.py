"""The int8 engine: ONNX Runtime runs graphs that were built from the weights, one call for the
whole step.

Keys and values lie in buffers that the graphs write in place (`memory.py`). What an activation
is rounded by belongs to its place in the model (`ranges.py`), so a sentence does not depend on
the others in its batch beyond the rounding of float32 sums.

Shapes: B sentences, S source tokens, N new slots, M cached slots, K tokens asked, H heads, D = H E,
V vocabulary.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import cached_property
from weakref import WeakKeyDictionary

import numpy as np
import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from multistride.decode.draft_head import DraftHead
from multistride.decode.draft_tree import DraftTree
from multistride.decode.hypothesis import Running
from multistride.decode.loop import Gathering, Loop
from multistride.decode.plan import Plan
from multistride.decode.state import DecodeState
from multistride.decode.writer import Writer
from multistride.engines.int8.buffers import GREEDY, EncodedSource, GraphMaker, Step, picking
from multistride.engines.int8.even import EvenEngine
from multistride.engines.int8.forms import block_bits
from multistride.engines.int8.gathered import GatheredBatch, GatheredPool, alike
from multistride.engines.int8.loops import Checked, Read, UnevenRows, shortcut, writer
from multistride.engines.int8.memory import Int8Memory
from multistride.engines.int8.native.draft_head import NativeDraftHead
from multistride.engines.int8.native.networks import NativeNetworks
from multistride.engines.int8.support import check_int8, check_supported
from multistride.engines.names import WeightForm
from multistride.errors import UsageError
from multistride.groups import Slots
from multistride.model.config import TransformerConfig
from multistride.model.markov import MarkovHead
from multistride.model.transformer import Transformer

with suppress(ImportError):  # check_int8 says so
    from multistride.engines.int8.graphs import graphs_of


class Int8StepModel(EvenEngine):
    """A model with int8 weights in ONNX Runtime, on the CPU."""

    device = torch.device("cpu")
    joins = True
    """Its memories can join (`JoinableMemory`)."""

    def __init__(
        self,
        config: TransformerConfig,
        markov: Callable[[], MarkovHead] | None,
        graphs: Mapping[str, GraphMaker],
        weights: Callable[[], Transformer] | None = None,
        threads: int | None = None,
        form: WeightForm = "int8",
    ) -> None:
        """Take `graphs` as `graphs_of` makes them, with weights in this `form`.

        `markov` loads the Markov head, if there is one; `weights` those that the graphs were made
        of, None for an export. `threads`: None for as many as PyTorch uses. Raises
        `MissingExtraError` without ONNX Runtime, `UsageError` for a choice of kernels that cannot
        be met.
        """
        check_int8(form)
        self._threads = torch.get_num_threads() if threads is None else threads
        super().__init__(config, graphs, self._threads, form)
        self._weights, self._head, self._form = weights, markov, form
        self._gathered = GatheredPool(self._pool.sizes)
        self._heads = WeakKeyDictionary[DraftHead, DraftHead]()

    @cached_property
    def markov(self) -> MarkovHead | None:
        """The Markov head, rounded as in the graphs; None without."""
        return None if self._head is None else _in_8_bits(self._head())

    @cached_property
    def model(self) -> Transformer:
        """The weights in float32, loaded when they are first asked for.

        Raises `UsageError` for an exported model, which holds none.
        """
        if self._weights is None:
            raise UsageError(
                "this needs the weights in float32, and an int8 export holds none: "
                "give the model directory it was exported from"
            )
        return self._weights()

    def start(
        self, source: Int[Tensor, "B S"] | None, lengths: Int[Tensor, "B"] | None
    ) -> Int8Memory:
        """Encode a batch of sources once."""
        if source is None or lengths is None:
            assert not self.config.encoder_layers, "an encoder-decoder model needs a source"
            return Int8Memory(self._pool, None, EncodedSource({}))
        encoded = self.encoded(source.numpy(), lengths.numpy())
        return Int8Memory(self._pool, len(source), EncodedSource(encoded))

    def gathering(self, plan: Plan) -> Gathering | None:
        """Return what begins a batch that others join at no cost; None where there is none.

        It is for whole greedy groups of a translation; stop texts may end them.
        """
        beam = plan.group_beam
        if not (plan.plain and self.searches(beam)):
            return None
        if not (plan.whole_groups and self.config.encoder_layers):
            return None
        if plan.rules.prefix or self.config.by_distance:
            return None
        size = plan.group_size
        name = picking(self._chains, size, beam)

        def begin(
            source: Int[Tensor, "B S"], lengths: Int[Tensor, "B"], state: Running
        ) -> GatheredBatch:
            first = np.full((len(source), size), self.config.start_token, np.int64)
            tokens, counts = source.numpy(), lengths.numpy()
            encoded = [
                self.encoded(np.ascontiguousarray(tokens[rows, :width]), counts[rows])
                for rows, width in alike(counts.tolist())
            ]
            return GatheredBatch(self._networks, self._gathered, encoded, state, first, name)

        return begin

    def step(self, slots: Slots, memory: Int8Memory) -> Float[Tensor, "B N V"]:
        """Logits of the new slots, which join the memory."""
        return self.step_with_states(slots, memory)[0]

    def step_with_states(
        self, slots: Slots, memory: Int8Memory
    ) -> tuple[Float[Tensor, "B N V"], Float[Tensor, "B N D"] | None]:
        """Return what `step` returns, and the states; None where they are rounded for the
        output.
        """
        hidden = self._stepped(slots, memory).hidden
        [logits] = self._networks["logits"]({"hidden": hidden.reshape(-1, hidden.shape[2])})
        states = self._states(hidden, hidden.shape[1])
        return torch.from_numpy(logits).view(*hidden.shape[:2], -1), states

    def read(self, slots: Slots, memory: Int8Memory) -> None:
        """Let slots join the memory; no logits are computed."""
        self._stepped(slots, memory)

    def own_head(self, head: DraftHead) -> DraftHead:
        """Return a draft head that drafts the same, but for rounding: in the native kernels where
        they run.
        """
        native = isinstance(self._networks, NativeNetworks)
        if not native or not NativeDraftHead.computes(head):
            return head
        if head not in self._heads:
            self._heads[head] = NativeDraftHead(head.tensors, self._threads)
        return self._heads[head]

    def shortcut(self, plan: Plan, rows: int) -> Loop | None:
        """Return a loop that makes fewer tensors, where there is one for this way of decoding."""
        return shortcut(self, plan, rows)

    def writer(self, plan: Plan, state: DecodeState) -> Writer[Int8Memory] | None:
        """Return a writer that picks without logits, where there is one for this way."""
        return writer(self, plan, state)

    def step_greedy(
        self, slots: Slots, memory: Int8Memory, size: int
    ) -> tuple[Int[Tensor, "B K"], Float[Tensor, "B K"]]:
        """The token that greedy decoding picks in each of the last `size` slots, and its
        log-probability.
        """
        return self._picked(self._stepped(slots, memory), size, 1)

    def step_searched(
        self, slots: Slots, memory: Int8Memory, size: int, beam: int
    ) -> tuple[Int[Tensor, "B K"], Float[Tensor, "B K"]]:
        """The best group that a beam finds in the last `size` slots, if `searches`, and its
        log-probabilities.
        """
        return self._picked(self._stepped(slots, memory), size, beam)

    def step_checked(self, slots: Slots, memory: Int8Memory, masks: int) -> Checked:
        """Return the greedy tokens of every slot but the last `masks`, and the drafts of those."""
        hidden = self._stepped(slots, memory).hidden
        clean = hidden.shape[1] - masks
        tokens, log_probabilities, drafted = self._networks.check(hidden, clean, self._chains)

        def draft(rows: Int[Tensor, "F"]) -> Int[Tensor, "F D"]:
            return torch.from_numpy(drafted(rows.numpy()))

        picked = torch.from_numpy(tokens), torch.from_numpy(log_probabilities)
        return Checked(*picked, draft, self._states(hidden, clean))

    def _states(
        self, hidden: Shaped[np.ndarray, "B N D"], clean: int
    ) -> Float[Tensor, "B C D"] | None:
        """Return the last states of clean slots; None where they are rounded for the output."""
        if not block_bits(self.config, self._form):
            return None
        return torch.from_numpy(hidden[:, :clean])

    def step_single(self, clean: list[int], position: int, masks: int, memory: Int8Memory) -> Read:
        """Return the greedy tokens behind each token of one sentence, and drafts by masks behind
        them.
        """
        step, count = self._read_single(clean, position, masks, memory), len(clean)
        shown = self._states(step.hidden, count)
        states = None if shown is None else shown[0]
        if not masks:
            found = step.pick(self._networks, GREEDY)()
            return Read(found[0][0].tolist(), found[1][0].tolist(), list, states)
        tokens, certain, drafted = self._networks.check(step.hidden, count, self._chains)

        def draft() -> list[int]:
            tokens: list[int] = drafted(np.zeros(1, np.int64))[0].tolist()
            return tokens

        return Read(tokens[0].tolist(), certain[0].tolist(), draft, states)

    @property
    def reads_trees(self) -> bool:
        """True with native kernels, where a slot gets the same bits whatever slots are hidden from
        it.
        """
        return isinstance(self._networks, NativeNetworks)

    def step_tree(self, last: int, tree: DraftTree, position: int, memory: Int8Memory) -> Read:
        """Return the greedy tokens behind the last token of one sentence, which predicts
        `position`, and behind each draft.
        """
        count = len(tree.tokens) + 1
        length = memory.grow_even(count)
        step = memory.room(1, length, count).step(1, count, self._networks, memory.source)
        step.token[0], step.reach[0] = [last, *tree.tokens], 1
        step.position[0] = np.add(tree.depths(), position)
        visible = np.ones((1, count, length + count), bool)
        visible[0, :, length:] = tree.visible()
        step(length, visible)
        found = step.pick(self._networks, GREEDY)()
        shown = self._states(step.hidden, count)
        states = None if shown is None else shown[0]
        return Read(found[0][0].tolist(), found[1][0].tolist(), list, states)

    def keep_path(self, path: list[int], tree: DraftTree, memory: Int8Memory) -> None:
        """Forget the slots of the last `step_tree` but those of a path."""
        memory.keep_slots(path, len(tree.tokens) + 1)

    def read_single(self, clean: list[int], position: int, memory: Int8Memory) -> None:
        """Let tokens of one prompt join the memory; the first slot predicts `position`."""
        self._read_single(clean, position, 0, memory)

    def _read_single(self, clean: list[int], position: int, masks: int, memory: Int8Memory) -> Step:
        count = len(clean)
        new = count + masks
        length = memory.grow_even(new)
        step = memory.room(1, length, new).step(1, new, self._networks, memory.source)
        step.token[0] = [*clean, *[self.config.mask_token] * masks]
        step.position[0] = np.arange(position, position + new)
        step.reach[0] = [1] * count + list(range(2, masks + 2))
        step(length, None, clean=count)
        return step

    def step_uneven(
        self, tokens: Int[np.ndarray, "R"], rows: UnevenRows, memory: Int8Memory
    ) -> tuple[Int[np.ndarray, "R 1"], Float[np.ndarray, "R 1"]]:
        """Return what K=1 writes behind the last `tokens` of rows, and its log-probabilities.

        The prompts were read by `read`; all further steps of the memory are of this kind.
        """
        count, longest = len(tokens), int(rows.slots.max())
        memory.hold(longest)
        step = memory.room(count, longest, 1).step(count, 1, self._networks, memory.source)
        step.token[:, 0], step.position[:, 0] = tokens, rows.positions
        step.reach.fill(1)
        if int(rows.slots.min()) == longest:
            step(longest, None)
        else:
            step.uneven(rows.slots)
        memory.hold(longest + 1)
        return step.pick(self._networks, GREEDY)()

    def forget(self, count: int, memory: Int8Memory) -> None:
        """Forget the last slots of a memory that only `step_single` wrote into."""
        memory.grow_even(-count)

    def _stepped(self, slots: Slots, memory: Int8Memory) -> Step:
        """The step that has read the slots; their keys and values are in the memory."""
        return memory.read(slots, self._networks)

    def _picked(
        self, step: Step, size: int, beam: int
    ) -> tuple[Int[Tensor, "B K"], Float[Tensor, "B K"]]:
        """The tokens of the last `size` slots of a step."""
        name = picking(self._chains, size, beam)
        if size < step.hidden.shape[1]:
            found = self._networks.picked(step.hidden[:, -size:], name)
        else:
            found = step.pick(self._networks, name)()
        return torch.from_numpy(found[0]), torch.from_numpy(found[1])


def quantise(
    model: Transformer, threads: int | None = None, form: WeightForm = "int8"
) -> Int8StepModel:
    """Return the engine with the weights of `model`, which are left as they are.

    Raises as `Int8StepModel` does.
    """
    head = model.markov
    markov = None if head is None else lambda: head
    graphs = int8_graphs(model, form)
    return Int8StepModel(model.config, markov, graphs, lambda: model, threads, form)


def _in_8_bits(head: MarkovHead) -> MarkovHead:
    """A head whose rows are what 8 bits and a scale for each row can hold."""
    rounded = copy.deepcopy(head)
    with torch.no_grad():
        for table in (rounded.previous.weight, rounded.following):
            scale = table.abs().amax(dim=1, keepdim=True).clamp(min=1e-12) / 127
            table.copy_((table / scale).round() * scale)
    return rounded


def int8_graphs(model: Transformer, form: WeightForm = "int8") -> dict[str, Callable[[], bytes]]:
    """Return what builds the graphs of a model with weights in this form, by name.

    Raises as `check_int8` does, and `UsageError` for a model that the engine does not support.
    """
    check_int8(form)
    check_supported(model.config)
    return graphs_of(model.eval(), form)
