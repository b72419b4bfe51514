"""How large activations become, which decides the steps that the int8 engine rounds them to.

A range belongs to a place in the model, not to a batch or a row: so a sentence does not depend on
the others in its batch, and a product needs no pass over its rows to find their largest entries.
The ranges are those of random tokens, since a model directory holds no text. What comes out of
layer normalisation has a fixed size whatever is read, so there little room is left above them;
elsewhere more (`ROOM`). What is beyond is rounded to the end of the range.

Where nothing but a linear layer reads the activation, its channels are first made more alike, at no
cost, by weights: each is divided by the root of its own range, and the weights that read it are
multiplied by that (Xiao et al. 2023, "SmoothQuant", arXiv 2211.10438, equation 4, with the share
0.5 and activations only).

Shapes: B sentences, S source tokens, T target tokens, N slots, D channels of an activation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor, nn

from multistride.groups import Slots, equal_sizes, lookahead, teacher_forced
from multistride.model.attention import CrossAttention
from multistride.model.config import TransformerConfig
from multistride.model.transformer import Transformer

SENTENCES, LONGEST = 12, 15
"""How many random sentences are read in each layout, and the most tokens of each."""

ROOM_NORMED, ROOM = 1.1, 1.5
"""The end of a range, as a multiple of what random tokens reach: after layer normalisation, and
elsewhere."""

LONGER = 2
"""The longest queries and keys, as a multiple of those of random tokens."""

FINAL = "output"
"""The name of the place before the output matrix; all others have the name of the linear layer that
reads them."""


class Rounding(NamedTuple):
    """How an activation becomes 8-bit integers: divided by `shrink`, channel by channel, and then
    by `step`.

    Integers are `lowest` ... `lowest` + 255; they are stored without sign, so that `-lowest` stands
    for zero.
    """

    step: float
    shrink: Float[np.ndarray, "D"]
    lowest: int = -128


class Grid(NamedTuple):
    """What the queries and the keys of a place are rounded to multiples of: powers of two.

    The sum of a head's products is at most the product of the lengths of query and key (Cauchy and
    Schwarz). Where that is at most 2^24 times `query` times `key`, float32 holds every part of the
    sum exactly, in whatever order it is taken.
    """

    query: float
    key: float


def _grid(longest: float) -> float:
    """Return the power of two for vectors of a head that are `longest` with random tokens."""
    return float(2.0 ** np.ceil(np.log2(max(LONGER * longest, 1e-12) / 2**12)))


class Roundings:
    """The `Rounding` of every place of a model, by name."""

    def __init__(self, model: Transformer) -> None:
        """Reads random sentences with `model`, which must be in evaluation mode."""
        self._config = model.config
        self._largest, self._lengths = observed(model)

    def normed(self, *places: str, alike: bool) -> Rounding:
        """What layer normalisation gives, for all linear layers that read it; `alike` if nothing
        else reads it.
        """
        largest = np.maximum.reduce([self._largest[place] for place in places])
        shrink = (
            np.sqrt(np.maximum(largest, 0.01 * largest.max())) if alike else np.ones_like(largest)
        )
        return _rounding(ROOM_NORMED * (largest / shrink).max(), shrink)

    def grid(self, place: str) -> Grid:
        """Return the grid of cross-attention; queries are divided by the root of the width."""
        query, key = (self._lengths[f"{place}.{name}"].max() for name in ("query", "key_value"))
        return Grid(_grid(float(query) / np.sqrt(self._config.head_width)), _grid(float(key)))

    def other(self, place: str, *, positive: bool = False) -> Rounding:
        """Any other activation. One that is never negative has the whole range for itself."""
        largest = self._largest[place]
        return _rounding(ROOM * largest.max(), np.ones_like(largest), positive)


def _rounding(end: float, shrink: NDArray[np.float32], positive: bool = False) -> Rounding:
    top, lowest = (255, 0) if positive else (127, -128)
    return Rounding(max(float(end), 1e-12) / top, shrink, lowest)


class Observed(NamedTuple):
    """The `largest` absolute entry of every channel of what a linear layer reads, and the greatest
    `lengths` of every head's queries and keys of cross-attention, by the layer's name.
    """

    largest: dict[str, NDArray[np.float32]]
    lengths: dict[str, NDArray[np.float32]]


@torch.inference_mode()
def observed(model: Transformer) -> Observed:
    """Read random sentences with a model and return what was largest."""
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
    """Call `read` with what each linear layer reads, and `measure` with how long the queries and
    keys of each head are that layers of cross-attention make.
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
    """Random sentences in the layouts that decoding uses: K=1, the largest group, and masks behind
    known tokens.
    """
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
        slots, _ = teacher_forced(target, known, equal_sizes(known, size), config.start_token)
        yield *source(), slots
    if config.lookahead and largest > 1:
        target, known = drawn()
        slots, _ = lookahead(
            target, known, known // 2, largest, config.start_token, config.mask_token
        )
        yield *source(), slots
