"""Ranges of activations, which decide the steps that the int8 engine rounds them to.

A range belongs to a layer of the model, not to a batch or a row. So a sentence does not depend on
the others in its batch, and a product needs no pass over its rows to find their maximum. Ranges are
measured on random tokens, since a model directory holds no text. The output of layer normalisation
has a fixed size whatever is read, so little room is left above its range; elsewhere more (`ROOM`).
Larger values are clipped.

Where only linear layers read an activation, its channels are first equalised, at no cost: each is
divided by the square root of its own range, and the weights that read it are multiplied by that
(Xiao et al. 2023, "SmoothQuant", arXiv 2211.10438, equation 4, with the share 0.5 and activations
only). The weights before it do the dividing: those of the normalisation, or, where rows are rounded
one by one, those that widen in a feed-forward layer whose activation is gated or ReLU.

Shapes: B sentences, S source tokens, T target tokens, N slots, D channels of an activation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from multistride.engines.int8.forms import block_bits, by_row
from multistride.engines.int8.onnx_graph import Rounding
from multistride.engines.names import WeightForm
from multistride.errors import DataError
from multistride.groups import Slots, lookahead, sizes_behind, teacher_forced
from multistride.model.attention import CrossAttention
from multistride.model.config import TransformerConfig
from multistride.model.transformer import Transformer

SENTENCES, LONGEST = 12, 15
"""Number of random sentences read in each layout, and the maximum length of each."""

ROOM_NORMED, ROOM = 1.1, 1.5
"""Ends of ranges as multiples of the maximum on random tokens: normalised, and elsewhere."""

LONGER = 2
"""Maximum length of queries and keys, as a multiple of that on random tokens."""

FINAL = "output"
"""The name of the activation before the output matrix; others are named by the reading layer."""


class Grid(NamedTuple):
    """The powers of two whose multiples the queries and keys of a layer are rounded to.

    The sum of a head's products is at most the product of the lengths of query and key (Cauchy and
    Schwarz). Where that is at most 2^24 times `query` times `key`, float32 holds every part of the
    sum exactly, in whatever order it is taken.
    """

    query: float
    key: float


def _grid(longest: float) -> float:
    """Return the power of two for vectors of up to `longest` on random tokens, per head."""
    return float(2.0 ** np.ceil(np.log2(max(LONGER * longest, 1e-12) / 2**12)))


class Roundings:
    """The `Rounding` of every activation of a model, by name."""

    def __init__(self, model: Transformer, form: WeightForm = "int8") -> None:
        """Measure ranges on random sentences; `model` must be in evaluation mode.

        Products in blocks (`block_bits`) need no ranges. Raises `DataError` for a model that
        overflows.
        """
        self._config = model.config
        self.by_row = by_row(model.config, form)
        self.block_bits = block_bits(model.config, form)
        self._largest, self._lengths = Observed({}, {}) if self.block_bits else observed(model)
        if not all(np.isfinite(largest).all() for largest in self._largest.values()):
            raise DataError(
                "the model's activations are not finite numbers: its weights are damaged or far "
                "too large: copy the model again"
            )

    def normed(self, *places: str, alike: bool) -> Rounding:
        """Return the rounding of the output of a normalisation, for all linear layers that read it.

        `alike` equalises its channels, which is possible where only linear layers read it.
        """
        if self.block_bits:
            return self._in_blocks(places[0])
        largest = np.maximum.reduce([self._largest[place] for place in places])
        shrink = _equaliser(largest) if alike else np.ones_like(largest)
        if self.by_row:
            return Rounding(1 / 127, shrink, by_row=True)
        return _rounding(float(ROOM_NORMED * (largest / shrink).max()), shrink)

    def widened(self, place: str, *, linear: bool) -> Rounding:
        """Return the rounding inside a feed-forward layer that is rounded row by row.

        Its channels are equalised if the activation is `linear` in the output of the layer that
        widens, whose weights then take up the divisors.
        """
        if self.block_bits or not linear:
            return self.other(place)
        return Rounding(1 / 127, _equaliser(self._largest[place]), by_row=True)

    def grid(self, place: str) -> Grid:
        """Return the grid of cross-attention; queries are divided by the root of the width."""
        query, key = (self._lengths[f"{place}.{name}"].max() for name in ("query", "key_value"))
        return Grid(_grid(float(query) / np.sqrt(self._config.head_width)), _grid(float(key)))

    def other(self, place: str, *, positive: bool = False) -> Rounding:
        """Return the rounding of any other activation.

        One that is never negative (`positive`) uses the whole range.
        """
        if self.block_bits:
            return self._in_blocks(place)
        if self.by_row:
            ones = np.ones_like(self._largest[place])
            return Rounding(1 / 127, ones, by_row=True)
        largest = self._largest[place]
        return _rounding(float(ROOM * largest.max()), np.ones_like(largest), positive)

    def _in_blocks(self, place: str) -> Rounding:
        """Return the rounding of products in blocks: those that lose most always have 8 bits.

        The output matrix decides between tokens. Attention has a quarter of the weights of a layer
        of SmolLM2, and more than half of what 4 bits cost.
        """
        precise = place == FINAL or ".attention." in place
        bits = 8 if precise else self.block_bits
        return Rounding(1.0, np.ones(1, np.float32), by_row=True, block_bits=bits)


def _equaliser(largest: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the divisors of channels with these maxima: their roots, none far below the others."""
    floor = max(0.01 * float(largest.max()), 1e-12)
    return np.sqrt(np.maximum(largest, floor)).astype(np.float32)


def _rounding(end: float, shrink: NDArray[np.float32], positive: bool = False) -> Rounding:
    top, lowest = (255, 0) if positive else (127, -128)
    return Rounding(max(float(end), 1e-12) / top, shrink, lowest)


class Observed(NamedTuple):
    """Maxima by the name of a linear layer: `largest` input of every channel, and `lengths`.

    `largest` is absolute; `lengths` are those of the longest query and key of every head of
    cross-attention.
    """

    largest: dict[str, NDArray[np.float32]]
    lengths: dict[str, NDArray[np.float32]]


@torch.inference_mode()
def observed(model: Transformer) -> Observed:
    """Return the maxima over random sentences read with a model."""
    largest: dict[str, Tensor] = {}
    lengths: dict[str, Tensor] = {}

    def keep(kept: dict[str, Tensor], name: str, rows: Tensor) -> None:
        most = rows.abs().flatten(0, -2).amax(0)
        kept[name] = torch.maximum(kept[name], most) if name in kept else most

    with _watched(model, partial(keep, largest), partial(keep, lengths)):
        for source, real, slots in _random_passes(model.config):
            keep(largest, FINAL, model(source, real, slots))
    return Observed(
        *(
            {name: each.float().cpu().numpy() for name, each in kept.items()}
            for kept in (largest, lengths)
        )
    )


@contextmanager
def _watched(
    model: Transformer, read: Callable[[str, Tensor], None], measure: Callable[[str, Tensor], None]
) -> Iterator[None]:
    """Call `read` with the input of each linear layer, and `measure` with lengths.

    The lengths are those of queries and keys of cross-attention, per head.
    """

    def made(name: str, rows: Tensor) -> None:
        measure(name, rows.unflatten(-1, (model.config.heads, -1)).norm(dim=-1))

    handles = []
    for name, layer in model.named_modules():
        if isinstance(layer, nn.Linear):
            handles.append(
                layer.register_forward_pre_hook(lambda _, rows, name=name: read(name, rows[0]))
            )
        if isinstance(layer, CrossAttention):
            query, pair = f"{name}.query", f"{name}.key_value"
            handles += [
                layer.query.register_forward_hook(lambda _, __, rows, name=query: made(name, rows)),
                layer.key_value.register_forward_hook(
                    lambda _, __, rows, name=pair: made(name, rows.chunk(2, dim=-1)[0])
                ),
            ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _random_passes(
    config: TransformerConfig,
) -> Iterator[tuple[Tensor | None, Tensor | None, Slots]]:
    """Yield random sentences in the layouts of decoding: K=1, the largest K, and lookahead."""
    generator = torch.Generator().manual_seed(0)
    longest = min(LONGEST, config.max_positions - 1)

    def drawn() -> tuple[Tensor, Tensor]:
        lengths = torch.randint(1, longest + 1, (SENTENCES,), generator=generator)
        tokens = torch.randint(
            config.vocabulary_size, (SENTENCES, longest + 1), generator=generator
        )
        return tokens, lengths

    def source() -> tuple[Tensor | None, Tensor | None]:
        if not config.encoder_layers:
            return None, None
        tokens, lengths = drawn()
        tokens[torch.arange(SENTENCES), lengths] = config.end_token
        return tokens, lengths + 1

    largest = max(config.group_sizes)
    for size in sorted({1, largest}):
        target, known = drawn()
        sizes = sizes_behind(config.forced_tokens, known, size)
        slots, _ = teacher_forced(target, known, sizes, config.start_token)
        yield *source(), slots
    if config.lookahead and largest > 1:
        target, known = drawn()
        slots, _ = lookahead(
            target, known, known // 2, largest, config.start_token, config.mask_token
        )
        yield *source(), slots
