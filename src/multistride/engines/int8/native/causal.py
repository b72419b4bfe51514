"""The weights of a converted causal model, and the structures by which the kernels find them."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from multistride.engines.int8.native import library
from multistride.engines.int8.native.library import Work
from multistride.engines.int8.native.stored import DAMAGED, Size, read
from multistride.errors import DataError
from multistride.model.config import TransformerConfig

BLOCK = 64
"""Inputs that share a scale (`causal.c`)."""


class NativeCausal:
    """The weights of one model, and the structures by which the kernels find them."""

    def __init__(self, content: bytes | Path, config: TransformerConfig) -> None:
        """Take weights as `stored.content_of` wrote them.

        Raises `DataError` for arrays of other sizes than `config` says: kernels trust them.
        """
        self._arrays = read(content)
        self._check(config)
        kernels = library.kernels()
        layers = [self._layer(f"layer{index}") for index in range(config.decoder_layers)]
        self._table = (library.CausalLayer * len(layers))(*layers)
        network = library.Causal(
            **{name: self._place(name) for name in library.CAUSAL_TABLES},
            layers=ctypes.addressof(self._table),
            epsilon=config.norm_epsilon,
            layer_count=len(layers),
            hidden=config.hidden_size,
            widened=config.feedforward_size,
            heads=config.heads,
            groups=config.key_value_count,
            width=config.head_width,
            token_count=config.vocabulary_size,
            position_count=len(self._arrays["cosine"]),
            start_count=len(self._arrays["starts"]),
            reach_count=len(self._arrays["reaches"]),
        )
        run = kernels.ms_causal_run, kernels.ms_causal_scratch
        pick = kernels.ms_causal_pick, kernels.ms_causal_pick_scratch
        self.works = {
            "decoder": Work(*run, network, self, len(layers)),
            "greedy": Work(*pick, self._matrix("picked"), self),
        }
        """What the kernels compute in place of graphs, by the names of those."""

    def _place(self, name: str) -> int | None:
        return int(self._arrays[name].ctypes.data) if name in self._arrays else None

    def _layer(self, name: str) -> Any:
        return library.CausalLayer(
            *(self._place(f"{name}.{norm}") for norm in library.CAUSAL_NORMS),
            *(self._matrix(f"{name}.{matrix}") for matrix in library.CAUSAL_MATRICES),
        )

    def _matrix(self, name: str) -> Any:
        panels, blocks, fours, outputs, _ = self._arrays[f"{name}.weights"].shape
        places = (self._place(f"{name}.{part}") for part in ("weights", "scale", "bias"))
        return library.Blocked(*places, 4 * blocks * fours, panels * outputs)

    def _check(self, config: TransformerConfig) -> None:
        found = {name: (each.dtype.name, each.shape) for name, each in self._arrays.items()}
        counts = {
            name: found.get(name, ("", (0,)))[1][0] for name in ("cosine", "starts", "reaches")
        }
        if found != dict(_sizes(config, counts)) or not all(counts.values()):
            raise DataError(DAMAGED)


def _sizes(config: TransformerConfig, counts: dict[str, int]) -> Iterator[Size]:
    """Yield every array of a model; `counts` are the rows of its tables."""
    hidden, widened, width = config.hidden_size, config.feedforward_size, config.head_width
    queries, keys = config.heads * width, config.key_value_count * width
    yield "embedding", ("int8", (config.vocabulary_size, hidden))
    yield "embedding_scale", ("float32", (config.vocabulary_size,))
    yield from ((name, ("float32", (counts[name], hidden))) for name in ("starts", "reaches"))
    yield from ((name, ("float32", (counts["cosine"], width // 2))) for name in ("cosine", "sine"))
    yield "final_norm", ("float32", (hidden,))
    for name in (f"layer{index}" for index in range(config.decoder_layers)):
        for norm in ("attention_norm", "feedforward_norm"):
            yield f"{name}.{norm}", ("float32", (hidden,))
        if config.query_key_norm:
            for norm in ("query_norm", "key_norm"):
                yield f"{name}.{norm}", ("float32", (width,))
        bias, forward = config.attention_bias, config.feedforward_bias
        yield from _matrix(f"{name}.input", hidden, queries + 2 * keys, bias != "none")
        yield from _matrix(f"{name}.output", queries, hidden, bias == "all")
        yield from _matrix(f"{name}.widen", hidden, 2 * widened, forward)
        yield from _matrix(f"{name}.narrow", widened, hidden, forward)
    outputs = -(-config.vocabulary_size // library.PANEL) * library.PANEL
    yield from _matrix("picked", hidden, outputs, True)


def _matrix(name: str, inputs: int, outputs: int, bias: bool) -> Iterator[Size]:
    panels, blocks = outputs // library.PANEL, inputs // BLOCK
    yield f"{name}.weights", ("uint8", (panels, blocks, BLOCK // 4, library.PANEL, 4))
    yield f"{name}.scale", ("float32", (panels, blocks, library.PANEL))
    if bias:
        yield f"{name}.bias", ("float32", (outputs,))
