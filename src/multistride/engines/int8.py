"""The int8 engine: ONNX Runtime runs graphs that were built from the weights, one call for the whole step.

Keys and values live in two sets of buffers; a step reads one and writes the other, grown by its slots, so nothing is
allocated while the sentences fit. Everything an activation is rounded by belongs to its own row (`onnx_graph.py`), so
a sentence does not depend on the others in its batch beyond the rounding of float32 sums.

Shapes: B sentences, S source tokens, N new slots, M cached slots, H heads, E width of a head, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from multistride.device import multiplies_int8
from multistride.engines.int8_graphs import decoder_graph, encoder_graph, logits_graph
from multistride.errors import MissingExtraError, UsageError
from multistride.groups import Slots
from multistride.model.cache import FIRST_CAPACITY, CachedGroups
from multistride.model.config import TransformerConfig
from multistride.model.markov import MarkovHead
from multistride.model.transformer import Transformer

try:
    import onnxruntime
except ImportError:  # Int8StepModel says so
    onnxruntime = None

_KINDS = {torch.float32: np.float32, torch.int64: np.int64, torch.int32: np.int32}

MASKED = float(torch.finfo(torch.float32).min)
"""What is added to the score of a slot that is not seen."""


class Network:
    """One graph in ONNX Runtime. Tensors are bound where they lie; nothing is copied on the way in or out."""

    def __init__(self, graph: bytes, threads: int) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        self._session: Any = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        self._binding: Any = self._session.io_binding()

    def read(self, name: str, tensor: Tensor) -> None:
        """The next run reads `tensor`, which must be contiguous and live until then."""
        kind, shape = _KINDS[tensor.dtype], tuple(tensor.shape)
        self._binding.bind_input(name, "cpu", 0, kind, shape, tensor.data_ptr())

    def write(self, name: str, tensor: Tensor) -> None:
        """The next run writes into `tensor`, which must have the size of the output and be contiguous."""
        kind, shape = _KINDS[tensor.dtype], tuple(tensor.shape)
        self._binding.bind_output(name, "cpu", 0, kind, shape, tensor.data_ptr())

    def run(self) -> None:
        """Compute what is bound."""
        self._session.run_with_iobinding(self._binding)


class Int8Memory:
    """Keys and values of the slots so far and of the source, for all layers together.

    The slots' stand in one of two buffers [2, 2 L, capacity]: `past` reads them, `grown` is the place of the next
    step's. Dropping and sorting rows moves them to the other buffer.
    """

    def __init__(
        self, rows: int, sizes: tuple[int, int, int], source: list[Tensor], real: Int[Tensor, "B S"] | None
    ) -> None:
        """`sizes` are the layers, the heads and the width of a head; `real` says which source tokens are there."""
        self.rows, self.length = rows, 0
        self.source, self.real = source, real
        self.groups = CachedGroups()
        self._layers, self._heads, self._width = sizes
        self._side = 0
        self._buffer = torch.empty(2, 2 * self._layers, rows * self._heads * FIRST_CAPACITY * self._width)

    @property
    def past(self) -> Float[Tensor, "L2 B H M E"]:
        """Keys and values of all layers, in turns: `past[0]` keys and `past[1]` values of the first."""
        return self._view(self._side, self.rows, self.length)

    def grown(self, new: int) -> Float[Tensor, "L2 B H M E"]:
        """Where the next step writes keys and values of the slots so far and of `new` more."""
        needed = self.rows * self._heads * (self.length + new) * self._width
        if needed > self._buffer.shape[2]:
            larger = self._buffer.new_empty(2, self._buffer.shape[1], 2 * needed)
            larger[self._side, :, : self._buffer.shape[2]] = self._buffer[self._side]
            self._buffer = larger
        return self._view(1 - self._side, self.rows, self.length + new)

    def advance(self, new: int) -> None:
        """What was written into `grown` is the past from now on."""
        self._side, self.length = 1 - self._side, self.length + new

    @torch.inference_mode()
    def truncate(self, counts: Int[Tensor, "B"]) -> None:
        """Forget the last `counts` slots of each row."""
        past = self.past
        order = self.groups.truncate(counts)
        if order is None:
            self._move(past[:, :, :, : self.groups.length])
        else:
            places = order[None, :, None, :, None].expand(*past.shape[:1], -1, *past.shape[2:3], -1, *past.shape[4:])
            self._move(past.gather(3, places))

    @torch.inference_mode()
    def reorder(self, rows: Int[Tensor, "R"]) -> None:
        """Keep the given rows, in the given order; a row may be dropped or repeated."""
        past = self.past
        self.groups.reorder(rows)
        self.source = [part.index_select(0, rows) for part in self.source]
        if self.real is not None:
            self.real = self.real.index_select(0, rows)
        self._move(past.index_select(1, rows))

    def _move(self, kept: Float[Tensor, "L2 R H M E"]) -> None:
        """Make `kept` the past; it may be a part of the past as it was."""
        self.rows, self.length = kept.shape[1], kept.shape[3]
        needed = kept[0].numel()
        if needed > self._buffer.shape[2]:
            self._buffer = self._buffer.new_empty(2, self._buffer.shape[1], needed)
        self._side = 1 - self._side
        self.past.copy_(kept)

    def _view(self, side: int, rows: int, length: int) -> Tensor:
        """The beginning of one buffer as [2 L, rows, H, length, E]; each of the 2 L parts is contiguous."""
        shape = (rows, self._heads, length, self._width)
        size = rows * self._heads * length * self._width
        view: Tensor = self._buffer[side, :, :size].unflatten(1, shape)
        return view


class Int8StepModel:
    """A model with int8 weights in ONNX Runtime, on the CPU."""

    name = "int8"
    precision = "int8 weights, int8 activations scaled by row"
    device = torch.device("cpu")

    def __init__(self, model: Transformer, threads: int | None = None) -> None:
        """Quantise `model`, whose weights are left as they are. `threads`: None for as many as PyTorch uses.

        Raises `MissingExtraError` without ONNX Runtime, `UsageError` on a CPU that cannot multiply 8-bit integers
        without overflow.
        """
        check_int8()
        self.model = model.eval()
        graphs = {"decoder": decoder_graph(model, {}), "logits": logits_graph(model, {})}
        if model.config.encoder_layers:
            graphs["encoder"] = encoder_graph(model, {})
        self._open({name: graph.SerializeToString() for name, graph in graphs.items()}, threads)

    def _open(self, graphs: Mapping[str, bytes], threads: int | None) -> None:
        count = torch.get_num_threads() if threads is None else threads
        networks = {name: Network(graph, count) for name, graph in graphs.items()}
        self._encoder = networks.get("encoder")
        self._decoder, self._logits = networks["decoder"], networks["logits"]
        self._zeros = torch.zeros(FIRST_CAPACITY * FIRST_CAPACITY)

    @property
    def config(self) -> TransformerConfig:
        """The sizes, special tokens and group sizes of the model."""
        return self.model.config

    @property
    def markov(self) -> MarkovHead | None:
        """What corrects the tokens of a group by each other; None for a model without."""
        return self.model.markov

    @torch.inference_mode()
    def start(self, source: Int[Tensor, "B S"] | None, lengths: Int[Tensor, "B"] | None) -> Int8Memory:
        """Encode a batch of sources once."""
        config = self.config
        width = config.hidden_size // config.heads
        sizes = config.decoder_layers, config.heads, width
        if source is None or lengths is None:
            return Int8Memory(1, sizes, [], None)
        assert self._encoder is not None, "a causal model has no source"
        rows, longest = source.shape
        real = (torch.arange(longest) < lengths[:, None]).int()
        encoded = [torch.empty(rows, config.heads, longest, width) for _ in range(2 * config.decoder_layers)]
        source = source.contiguous()
        self._encoder.read("source", source)
        self._encoder.read("real", real)
        for index, part in enumerate(encoded):
            self._encoder.write(f"cross_{_part(index)}", part)
        self._encoder.run()
        return Int8Memory(rows, sizes, encoded, real)

    @torch.inference_mode()
    def step(self, slots: Slots, memory: Int8Memory) -> Float[Tensor, "B N V"]:
        """Logits of the new slots, which join the memory."""
        hidden = self._hidden(slots, memory)
        logits = torch.empty(*hidden.shape[:2], self.config.vocabulary_size)
        self._logits.read("hidden", hidden.flatten(0, 1))
        self._logits.write("logits", logits.flatten(0, 1))
        self._logits.run()
        return logits

    def _hidden(self, slots: Slots, memory: Int8Memory) -> Float[Tensor, "B N D"]:
        rows, new = slots.token.shape
        if memory.length == 0:
            memory.rows = rows
        visible = memory.groups.extend(slots.group)
        grown = memory.grown(new)
        past = memory.past
        hidden = torch.empty(rows, new, self.config.hidden_size)
        inputs = [slots.token.contiguous(), slots.position.contiguous(), slots.reach.contiguous()]
        inputs.append(self._bias(visible, new, memory.length + new))
        decoder = self._decoder
        for name, tensor in zip(("token", "position", "reach", "bias"), inputs, strict=True):
            decoder.read(name, tensor)
        for index, part in enumerate(memory.source):
            decoder.read(f"cross_{_part(index)}", part)
        if memory.real is not None:
            decoder.read("real", memory.real)
        for index in range(len(past)):
            decoder.read(_part(index), past[index])
            decoder.write(f"new_{_part(index)}", grown[index])
        decoder.write("hidden", hidden)
        decoder.run()
        memory.advance(new)
        return hidden

    def _bias(self, visible: Bool[Tensor, "B N M"] | None, new: int, length: int) -> Float[Tensor, "B 1 N M"]:
        """What is added to the attention scores; the same zeros for all rows where everything is seen."""
        if visible is not None:
            return torch.zeros(visible.shape).masked_fill_(~visible, MASKED)[:, None]
        if new * length > len(self._zeros):
            self._zeros = torch.zeros(2 * new * length)
        return self._zeros[: new * length].view(1, 1, new, length)


def check_int8() -> None:
    """Raise `MissingExtraError` or `UsageError` unless the int8 engine can run here."""
    if onnxruntime is None:
        raise MissingExtraError(
            "the engine int8 was asked for and ONNX Runtime is not installed: pip install 'multistride[int8]', "
            "or choose --engine eager"
        )
    if not multiplies_int8():
        raise UsageError(
            "the engine int8 was asked for; it needs a CPU that multiplies 8-bit integers without overflow (VNNI on "
            "x86), and this one does not: choose --engine eager"
        )


def _part(index: int) -> str:
    """The name of the `index`-th of keys and values, in turns."""
    return f"{('key', 'value')[index % 2]}{index // 2}"
