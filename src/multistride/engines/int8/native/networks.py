"""The networks of a model, computed by the native kernels where these can."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any

from multistride.engines.int8.buffers import GraphMaker, Networks
from multistride.engines.int8.native.library import PANEL, wanted
from multistride.engines.int8.native.network import Native, NativePass, NativePicker
from multistride.model.config import TransformerConfig

NATIVE = "native"
"""The name of the weights of the native kernels among the graphs of a model."""


def supported(config: TransformerConfig) -> bool:
    """Return True for models that the kernels can run: translation models trained here."""
    return bool(
        config.encoder_layers
        and config.decoder_layers
        and not config.extras
        and config.norm == "pre"
        and config.activation == "relu"
        and config.positions in ("sinusoidal", "learned")
        and config.hidden_size % PANEL == 0
        and config.feedforward_size % PANEL == 0
        and config.head_width % 16 == 0
        and config.markov_rank % 4 == 0
    )


def networks_of(
    graphs: Mapping[str, GraphMaker], threads: int, config: TransformerConfig
) -> Networks:
    """Return the networks of a model: native ones, if its graphs hold their weights and they can
    run here.

    Raises `UsageError` for a choice of kernels that cannot be met.
    """
    if wanted() and NATIVE in graphs:
        return NativeNetworks(graphs, threads, config)
    return Networks(graphs, threads)


class NativeNetworks(Networks):
    """Native encoder, decoder and choice of tokens; logits are computed by a graph."""

    def __init__(
        self, graphs: Mapping[str, GraphMaker], threads: int, config: TransformerConfig
    ) -> None:
        super().__init__({name: graphs[name] for name in graphs if name != NATIVE}, threads)
        self._make, self._config = graphs[NATIVE], config
        self._parts: dict[str, Any] = {}

    @cached_property
    def _native(self) -> Native:
        return Native(self._make(), self._config)

    def __getitem__(self, name: str) -> Any:
        """Return a native part, or else a graph."""
        if name not in self._parts:
            self._parts[name] = self._part(name)
        return self._parts[name]

    def _part(self, name: str) -> Any:
        native = self._native
        match name:
            case "encoder":
                return NativePass(native, native.encoder, self._threads)
            case "decoder":
                return NativePass(native, native.decoder, self._threads)
            case "greedy" | "chained":
                return NativePicker(native, name == "chained", self._threads)
        return super().__getitem__(name)

    def decoder(self, new: int) -> Any:
        """Return the decoder, which computes any number of slots."""
        return self["decoder"]
