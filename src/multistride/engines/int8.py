"""The int8 engine: ONNX Runtime runs graphs that were built from the weights, one call for the whole step.

The keys and values that a step gives are the next one's past: arrays that ONNX Runtime made and reads where they lie.
Everything an activation is rounded by belongs to its own row (`onnx_graph.py`), so
a sentence does not depend on the others in its batch beyond the rounding of float32 sums.

Shapes: B sentences, S source tokens, N new slots, M cached slots, K tokens asked, H heads, D = H E, V vocabulary.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from multistride.device import multiplies_int8
from multistride.errors import MissingExtraError, UsageError
from multistride.groups import Slots
from multistride.model.cache import CachedGroups
from multistride.model.config import TransformerConfig
from multistride.model.markov import MarkovHead
from multistride.model.transformer import Transformer

try:
    import onnxruntime

    from multistride.engines.int8_graphs import graphs_of
except ImportError:  # check_int8 says so
    onnxruntime = None

MASKED = float(torch.finfo(torch.float32).min)
"""What is added to the score of a slot that is not seen."""

Array = NDArray[Any]


class Network:
    """One graph in ONNX Runtime: named arrays in, all outputs out."""

    def __init__(self, graph: bytes, threads: int) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3  # errors
        self._session: Any = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        self._outputs = [output.name for output in self._session.get_outputs()]

    def __call__(self, inputs: dict[str, Array]) -> list[Array]:
        """Compute all outputs, in the order in which the graph was given them."""
        outputs: list[Array] = self._session.run(self._outputs, inputs)
        return outputs


class Networks:
    """The graphs of a model by name, each handed to ONNX Runtime when it is first needed."""

    def __init__(self, graphs: Mapping[str, bytes], threads: int) -> None:
        self._graphs, self._threads = dict(graphs), threads
        self._open: dict[str, Network] = {}

    def __getitem__(self, name: str) -> Network:
        if name not in self._open:
            self._open[name] = Network(self._graphs.pop(name), self._threads)
        return self._open[name]


class Int8Memory:
    """Keys and values of the slots so far and of the source, by their names in the graph of a step."""

    def __init__(self, past: dict[str, Array], source: dict[str, Array]) -> None:
        """`past` [B, H, M, E] is empty at first (M = 0); `source` [B, H, S, E] and `real` [B, S] stay as they are."""
        self.past, self.source = past, source
        self.groups = CachedGroups()

    @property
    def length(self) -> int:
        """Slots in the cache, padding included (M)."""
        return self.groups.length

    def truncate(self, counts: Int[Tensor, "B"]) -> None:
        """Forget the last `counts` slots of each row."""
        order = self.groups.truncate(counts)
        if order is None:
            self.past = {name: part[:, :, : self.length] for name, part in self.past.items()}
        else:
            places = order.numpy()[:, None, :, None]
            self.past = {name: np.take_along_axis(part, places, 2) for name, part in self.past.items()}

    def reorder(self, rows: Int[Tensor, "R"]) -> None:
        """Keep the given rows, in the given order; a row may be dropped or repeated."""
        self.groups.reorder(rows)
        kept = rows.numpy()
        self.past = {name: part.take(kept, 0) for name, part in self.past.items()}
        self.source = {name: part.take(kept, 0) for name, part in self.source.items()}


class Int8StepModel:
    """A model with int8 weights in ONNX Runtime, on the CPU."""

    name = "int8"
    precision = "int8 weights, int8 activations scaled by row"
    device = torch.device("cpu")

    def __init__(
        self,
        config: TransformerConfig,
        markov: MarkovHead | None,
        graphs: Mapping[str, bytes],
        weights: Transformer | None = None,
        threads: int | None = None,
    ) -> None:
        """`graphs` as `int8_graphs.graphs_of` makes them; `weights` those they were made of, None for an export.

        `threads`: None for as many as PyTorch uses. Raises `MissingExtraError` without ONNX Runtime, `UsageError` on
        a CPU that cannot multiply 8-bit integers without overflow.
        """
        check_int8()
        self._config, self._weights = config, weights
        self._markov = None if markov is None else _in_8_bits(markov)
        self._networks = Networks(graphs, torch.get_num_threads() if threads is None else threads)
        self._parts = [f"{part}{index}" for index in range(config.decoder_layers) for part in ("key", "value")]

    @property
    def config(self) -> TransformerConfig:
        """The sizes, special tokens and group sizes of the model."""
        return self._config

    @property
    def markov(self) -> MarkovHead | None:
        """What corrects the tokens of a group by each other, rounded as in the graphs; None for a model without."""
        return self._markov

    @property
    def model(self) -> Transformer:
        """The weights in float32. Raises `UsageError` for an exported model, which holds none."""
        if self._weights is None:
            raise UsageError(
                "this needs the weights in float32, and an int8 export holds none: "
                "give the model directory it was exported from"
            )
        return self._weights

    def start(self, source: Int[Tensor, "B S"] | None, lengths: Int[Tensor, "B"] | None) -> Int8Memory:
        """Encode a batch of sources once."""
        if source is None or lengths is None:
            assert not self.config.encoder_layers, "an encoder-decoder model needs a source"
            return Int8Memory({}, {})
        real = (torch.arange(source.shape[1]) < lengths[:, None]).int().numpy()
        encoded = self._networks["encoder"]({"source": source.numpy(), "real": real})
        cross = {f"cross_{part}": array for part, array in zip(self._parts, encoded, strict=True)}
        return Int8Memory({}, {"real": real, **cross})

    def step(self, slots: Slots, memory: Int8Memory) -> Float[Tensor, "B N V"]:
        """Logits of the new slots, which join the memory."""
        hidden = self._hidden(slots, memory)
        [logits] = self._networks["logits"]({"hidden": hidden.reshape(-1, hidden.shape[2])})
        return torch.from_numpy(logits).view(*hidden.shape[:2], -1)

    def step_greedy(
        self, slots: Slots, memory: Int8Memory, size: int
    ) -> tuple[Int[Tensor, "B K"], Float[Tensor, "B K"]]:
        """The token that greedy decoding picks in each of the last `size` slots, and its log-probability."""
        hidden = self._hidden(slots, memory)[:, -size:]
        if self.markov is not None and size > 1:
            found = self._networks["chained"]({"hidden": hidden})
        else:
            found = self._networks["greedy"]({"hidden": hidden.reshape(-1, hidden.shape[2])})
        tokens, log_probabilities = (torch.from_numpy(each).view(-1, size) for each in found)
        return tokens, log_probabilities

    def _hidden(self, slots: Slots, memory: Int8Memory) -> Array:
        """Final hidden states of the new slots [B, N, D]; their keys and values join the memory."""
        rows, new = slots.token.shape
        visible = memory.groups.extend(slots.group)
        if visible is None:
            bias = np.zeros((1, 1, new, memory.length), np.float32)
        else:
            bias = np.where(visible.numpy()[:, None], np.float32(0), np.float32(MASKED))
        if not memory.past:
            width = self.config.hidden_size // self.config.heads
            nothing = np.empty((rows, self.config.heads, 0, width), np.float32)
            memory.past = dict.fromkeys(self._parts, nothing)
        read = {"token": slots.token.numpy(), "position": slots.position.numpy(), "reach": slots.reach.numpy()}
        *grown, hidden = self._networks["decoder"]({**read, "bias": bias, **memory.source, **memory.past})
        memory.past = dict(zip(self._parts, grown, strict=True))
        return hidden


def quantise(model: Transformer, threads: int | None = None) -> Int8StepModel:
    """The engine with the weights of `model`, which are left as they are. Raises as `Int8StepModel` does."""
    return Int8StepModel(model.config, model.markov, int8_graphs(model), model, threads)


def _in_8_bits(head: MarkovHead) -> MarkovHead:
    """A head whose rows are what 8 bits and a scale for each row can hold."""
    rounded = copy.deepcopy(head)
    with torch.no_grad():
        for table in (rounded.previous.weight, rounded.following):
            scale = table.abs().amax(dim=1, keepdim=True).clamp(min=1e-12) / 127
            table.copy_((table / scale).round() * scale)
    return rounded


def int8_graphs(model: Transformer) -> dict[str, bytes]:
    """The graphs of a model, by name, as ONNX files. Raises as `check_int8` does."""
    check_int8()
    return graphs_of(model.eval())


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
