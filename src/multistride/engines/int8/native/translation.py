"""The weights of a translation model, and the structures by which the kernels find them."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from multistride.engines.int8.native import library
from multistride.engines.int8.native.library import PANEL, Arrays, Work, works_of
from multistride.engines.int8.native.stored import (
    DAMAGED,
    Size,
    markov_sizes,
    matrix_sizes,
    read,
)
from multistride.errors import DataError
from multistride.model.config import TransformerConfig


class NativeTranslation:
    """The weights of one model, and the structures by which the kernels find them."""

    def __init__(self, content: bytes | Path, config: TransformerConfig) -> None:
        """Take weights as `stored.content_of` wrote them.

        Raises `DataError` for arrays of other sizes than `config` says: kernels trust them.
        """
        self._arrays = read(content)
        _check(self._arrays, config)
        self._tables: list[Any] = []
        layers = config.decoder_layers
        of_encoder = self._layers("encoder", config.encoder_layers), self._pairs(layers)
        of_decoder = self._layers("decoder", layers), None
        networks = {
            "encoder": self._network("encoder", *of_encoder, config.heads),
            "decoder": self._network("decoder", *of_decoder, config.heads),
        }
        head = library.markov_of(self._arrays) if config.markov_rank else library.Markov()
        picker = library.Picker(output=self._matrix("picked"), markov=head)
        self.works: dict[str, Work] = works_of("", networks, picker, self, layers)
        """What the kernels compute in place of graphs, by the names of those."""

    def _network(self, name: str, layers: Any, pairs: Any, heads: int) -> Any:
        part = self._arrays
        reaches = part.get(f"{name}.reaches")
        self._tables += [layers, pairs]
        return library.Network(
            **{each: self._place(f"{name}.{each}") for each in library.TABLES},
            final_norm=self._norm(f"{name}.final"),
            layers=ctypes.addressof(layers),
            pairs=None if pairs is None else ctypes.addressof(pairs),
            layer_count=len(layers),
            pair_count=0 if pairs is None else len(pairs),
            hidden=part[f"{name}.embedding"].shape[1],
            widened=part[f"{name}.layer0.widen.scale"].size,
            heads=heads,
            token_count=len(part[f"{name}.embedding"]),
            position_count=len(part[f"{name}.positions"]),
            reach_count=0 if reaches is None else len(reaches),
        )

    def _place(self, name: str) -> int | None:
        return int(self._arrays[name].ctypes.data) if name in self._arrays else None

    def _norm(self, name: str) -> Any:
        if f"{name}.weight" not in self._arrays:
            return library.Norm()
        epsilon = float(self._arrays[f"{name}.epsilon"][0])
        return library.Norm(self._place(f"{name}.weight"), self._place(f"{name}.bias"), epsilon)

    def _matrix(self, name: str) -> Any:
        if f"{name}.weights" not in self._arrays:
            return library.Matrix()
        places = (self._place(f"{name}.{part}") for part in ("weights", "scale", "offset"))
        inputs = 4 * self._arrays[f"{name}.weights"].shape[1]
        return library.Matrix(*places, inputs, self._arrays[f"{name}.scale"].size)

    def _layers(self, network: str, count: int) -> Any:
        layers = []
        for index in range(count):
            name = f"{network}.layer{index}"
            units = (self._arrays.get(f"{name}.{unit}", [0.0])[0] for unit in library.UNITS)
            layers.append(
                library.Layer(
                    *(self._norm(f"{name}.{norm}") for norm in library.NORMS),
                    *(self._matrix(f"{name}.{matrix}") for matrix in library.MATRICES),
                    *map(float, units),
                )
            )
        return (library.Layer * count)(*layers)

    def _pairs(self, count: int) -> Any:
        matrices = (self._matrix(f"encoder.pair{index}") for index in range(count))
        return (library.Matrix * count)(*matrices)


def _check(arrays: Arrays, config: TransformerConfig) -> None:
    """Raise `DataError` unless there are all arrays of a model, each of its size."""
    found = {name: (array.dtype.name, array.shape) for name, array in arrays.items()}
    tables = [name for name in found if name.endswith((".positions", ".reaches"))]
    wide = all(
        kind == "float32" and len(shape) == 2 and shape[0] and shape[1] == config.hidden_size
        for kind, shape in (found.pop(name) for name in tables)
    )
    expected = dict(_sizes(config))
    if found != expected or len(tables) != 3 or not wide:
        raise DataError(DAMAGED)


def _sizes(config: TransformerConfig) -> Iterator[Size]:
    """Yield every array of a model but the tables of positions and reaches."""
    hidden, widened = config.hidden_size, config.feedforward_size
    for network, layers in (("encoder", config.encoder_layers), ("decoder", config.decoder_layers)):
        yield f"{network}.embedding", ("int8", (config.vocabulary_size, hidden))
        yield f"{network}.embedding_scale", ("float32", (config.vocabulary_size,))
        yield from _norm(f"{network}.final", hidden)
        cross = network == "decoder"
        for name in (f"{network}.layer{index}" for index in range(layers)):
            for norm in ("attention_norm", "feedforward_norm", *["cross_norm"] * cross):
                yield from _norm(f"{name}.{norm}", hidden)
            yield from matrix_sizes(f"{name}.input", hidden, 3 * hidden)
            for matrix in ("output", *["query", "cross_output"] * cross):
                yield from matrix_sizes(f"{name}.{matrix}", hidden, hidden)
            yield from matrix_sizes(f"{name}.widen", hidden, widened)
            yield from matrix_sizes(f"{name}.narrow", widened, hidden)
            for unit in ("attention_unit", *["cross_unit"] * cross):
                yield f"{name}.{unit}", ("float32", (1,))
    for index in range(config.decoder_layers):
        yield from matrix_sizes(f"encoder.pair{index}", hidden, 2 * hidden)
    outputs = -(-config.vocabulary_size // PANEL) * PANEL
    yield from matrix_sizes("picked", hidden, outputs)
    yield from markov_sizes(config)


def _norm(name: str, width: int) -> Iterator[Size]:
    yield from ((f"{name}.{part}", ("float32", (width,))) for part in ("weight", "bias"))
    yield f"{name}.epsilon", ("float32", (1,))
