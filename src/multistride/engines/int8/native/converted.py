"""The weights of a converted model, and the structures by which the kernels find them."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from multistride.engines.int8.forms import block_bits
from multistride.engines.int8.native import library
from multistride.engines.int8.native.library import PANEL, Work, works_of
from multistride.engines.int8.native.stored import DAMAGED, Size, markov_sizes, read
from multistride.engines.names import SIZES, WeightForm
from multistride.errors import DataError
from multistride.model.config import TransformerConfig

Rows = Callable[[str], int]
"""What returns how many rows an array has, by its name; 0: there is none."""

COUNTS = {
    "position_count": "positions",
    "start_count": "starts",
    "reach_count": "reaches",
    "rotation_count": "cosine",
}
"""The tables whose rows are counted, by the name of their number."""


class NativeConverted:
    """The weights of one model, and the structures by which the kernels find them."""

    def __init__(self, content: bytes | Path, config: TransformerConfig, form: WeightForm) -> None:
        """Take weights as `stored.content_of` wrote them.

        Raises `DataError` for arrays of other sizes than `config` says: kernels trust them.
        """
        self._arrays, self._config = read(content), config
        self._block = SIZES[8] if block_bits(config, form) else 0
        self._check()
        self._tables: list[Any] = []
        picker = library.ConvertedPicker(
            output=self._linear("picked"),
            markov=self._markov(),
            barred=self._place("picked.barred"),
            cap=config.output_cap or 0.0,
            block=self._block,
        )
        networks = {"decoder": self._network("decoder", config.decoder_layers)}
        if config.encoder_layers:
            networks["encoder"] = self._network("encoder", config.encoder_layers)
        self.works: dict[str, Work] = works_of(
            "converted_", networks, picker, self, config.decoder_layers
        )
        """What the kernels compute in place of graphs, by the names of those."""

    def _network(self, name: str, count: int) -> Any:
        config, encoder = self._config, name == "encoder"
        layers = [self._layer(f"{name}.layer{index}", index, encoder) for index in range(count)]
        pairs = [self._linear(f"encoder.pair{index}") for index in range(config.decoder_layers)]
        self._tables += [
            (library.ConvertedLayer * count)(*layers),
            (library.Linear * len(pairs))(*pairs),
        ]
        table = self._arrays.get(f"{name}.distances")
        return library.Converted(
            **{each: self._place(f"{name}.{each}") for each in library.CONVERTED_TABLES},
            **{each: self._norm(f"{name}.{each}") for each in ("embedding_norm", "final_norm")},
            **{count: self._rows(f"{name}.{each}") for count, each in COUNTS.items()},
            layers=ctypes.addressof(self._tables[-2]),
            pairs=ctypes.addressof(self._tables[-1]) if encoder else None,
            epsilon=config.norm_epsilon,
            cap=config.attention_cap or 0.0,
            layer_count=count,
            pair_count=len(pairs) if encoder else 0,
            hidden=config.hidden_size,
            widened=config.feedforward_size,
            heads=config.heads,
            groups=config.key_value_count,
            width=config.head_width,
            token_count=config.vocabulary_size,
            block=self._block,
            activation=library.ACTIVATIONS.index(config.activation),
            gated=config.gated_feedforward,
            parallel=config.parallel_sublayers,
            all_heads=config.query_key_norm_over == "all",
            window=config.attention_window or 0,
            furthest=0 if table is None else table.shape[1] // 2,
        )

    def _place(self, name: str) -> int | None:
        return int(self._arrays[name].ctypes.data) if name in self._arrays else None

    def _rows(self, name: str) -> int:
        return len(self._arrays.get(name, ()))

    def _norm(self, name: str) -> Any:
        return library.Around(self._place(f"{name}.weight"), self._place(f"{name}.bias"))

    def _layer(self, name: str, index: int, encoder: bool) -> Any:
        norms = (
            library.Norms(*(self._norm(f"{name}.{sublayer}.{place}") for place in library.PLACES))
            for sublayer in library.SUBLAYERS
        )
        return library.ConvertedLayer(
            *norms,
            *(self._norm(f"{name}.{norm}") for norm in library.HEAD_NORMS),
            *(self._linear(f"{name}.{matrix}") for matrix in library.MATRICES),
            not encoder and self._config.slides(index),
        )

    def _linear(self, name: str) -> Any:
        if f"{name}.weights" not in self._arrays:
            return library.Linear()
        panels, rows, outputs, _ = self._arrays[f"{name}.weights"].shape
        places = (self._place(f"{name}.{part}") for part in library.LINEAR)
        inputs = (8 if f"{name}.step" in self._arrays else 4) * rows
        return library.Linear(*places, inputs, panels * outputs)

    def _markov(self) -> Any:
        return library.markov_of(self._arrays) if self._config.markov_rank else library.Markov()

    def _check(self) -> None:
        """Raise `DataError` unless there are all arrays of the model, each of its size."""
        found = {name: (each.dtype.name, each.shape) for name, each in self._arrays.items()}
        if found != dict(_sizes(self._config, self._block, self._rows)):
            raise DataError(DAMAGED)
        if any(not len(each) for each in self._arrays.values()):
            raise DataError(DAMAGED)


def _sizes(config: TransformerConfig, block: int, rows: Rows) -> Iterator[Size]:
    """Yield every array of a model; `rows` returns how many rows a table has."""
    for network in ("encoder", "decoder") if config.encoder_layers else ("decoder",):
        yield from _tables(config, network, rows)
        encoder = network == "encoder"
        for index in range(config.encoder_layers if encoder else config.decoder_layers):
            name = f"{network}.layer{index}"
            yield from _layer(
                config, name, block, rows, bool(config.encoder_layers) and not encoder
            )
    keys, hidden = config.key_value_count * config.head_width, config.hidden_size
    inputs = config.attention_bias != "none"
    for index in range(config.decoder_layers if config.encoder_layers else 0):
        yield from _linear(f"encoder.pair{index}", hidden, 2 * keys, block, inputs)
    outputs = -(-config.vocabulary_size // PANEL) * PANEL
    yield from _linear("picked", hidden, outputs, block, config.output_cap is None)
    if config.output_cap is not None:
        yield "picked.barred", ("float32", (outputs,))
    yield from markov_sizes(config)


def _tables(config: TransformerConfig, network: str, rows: Rows) -> Iterator[Size]:
    """Yield the embeddings and positions of a network, and its norms outside of layers."""
    hidden, decoder = config.hidden_size, network == "decoder"
    yield f"{network}.embedding", ("int8", (config.vocabulary_size, hidden))
    yield f"{network}.embedding_scale", ("float32", (config.vocabulary_size,))
    starts = config.positions in ("rotary", "relative")
    tables = ["reaches"] if decoder else []
    tables += ["starts"] if starts and decoder else [] if starts else ["positions"]
    for table in tables:
        name = f"{network}.{table}"
        yield name, ("float32", (rows(name), hidden))
    if config.positions == "rotary":
        count = rows(f"{network}.cosine")
        kinds = library.ROTATIONS if config.window_rotary_base else library.ROTATIONS[:2]
        for kind in kinds:
            yield f"{network}.{kind}", ("float32", (count, config.head_width // 2))
    if config.positions == "relative":
        furthest = 2 * config.relative_furthest + 1
        yield f"{network}.distances", ("float32", (config.heads, furthest))
    if config.embedding_norm:
        yield from _norm(config, f"{network}.embedding_norm", hidden)
    if config.norm != "post":
        yield from _norm(config, f"{network}.final_norm", hidden)


def _layer(
    config: TransformerConfig, name: str, block: int, rows: Rows, cross: bool
) -> Iterator[Size]:
    hidden, widened, width = config.hidden_size, config.feedforward_size, config.head_width
    queries, keys = config.heads * width, config.key_value_count * width
    places = {"pre": ("before",), "post": ("after",), "output": ("of_output",)}
    for sublayer in ("attention", "forward", *["cross"] * cross):
        for place in places.get(config.norm, ("before", "of_output")):
            yield from _norm(config, f"{name}.{sublayer}.{place}", hidden)
    if config.query_key_norm:
        every = config.query_key_norm_over == "all"
        yield f"{name}.query_norm.weight", ("float32", (queries if every else width,))
        yield f"{name}.key_norm.weight", ("float32", (keys if every else width,))
    inputs, outputs = config.attention_bias != "none", config.attention_bias == "all"
    yield from _linear(f"{name}.input", hidden, queries + 2 * keys, block, inputs, rows)
    yield from _linear(f"{name}.output", queries, hidden, block, outputs, rows)
    if cross:
        yield from _linear(f"{name}.query", hidden, queries, block, inputs, rows)
        yield from _linear(f"{name}.cross_output", queries, hidden, block, outputs, rows)
    wide = (2 if config.gated_feedforward else 1) * widened
    yield from _linear(f"{name}.widen", hidden, wide, block, config.feedforward_bias, rows)
    yield from _linear(f"{name}.narrow", widened, hidden, block, config.feedforward_bias, rows)


def _norm(config: TransformerConfig, name: str, width: int) -> Iterator[Size]:
    for part in ("weight", "bias") if config.norm_kind == "layer" else ("weight",):
        yield f"{name}.{part}", ("float32", (width,))


def _linear(
    name: str, inputs: int, outputs: int, block: int, bias: bool, rows: Rows | None = None
) -> Iterator[Size]:
    """Yield the arrays of a matrix; with `rows` it may be one that came in 4 bits."""
    panels, blocks = outputs // PANEL, inputs // block if block else 1
    if block and rows is not None and rows(f"{name}.step"):
        yield f"{name}.weights", ("uint8", (panels, inputs // 8, PANEL, 4))
        for part in ("step", "least"):
            yield f"{name}.{part}", ("float16", (panels, inputs // SIZES[4], PANEL))
    else:
        yield f"{name}.weights", ("uint8", (panels, inputs // 4, PANEL, 4))
        yield f"{name}.scale", ("float32", (panels, blocks, PANEL))
    if bias:
        yield f"{name}.bias", ("float32", (outputs,))
