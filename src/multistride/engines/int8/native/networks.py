"""The networks of a model, computed by the native kernels where these can."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any

from multistride.engines.int8.buffers import GraphMaker, Networks
from multistride.engines.int8.forms import block_bits
from multistride.engines.int8.native.causal import BLOCK, NativeCausal
from multistride.engines.int8.native.library import NATIVE, PANEL, Work, wanted
from multistride.engines.int8.native.passes import NativePass, NativePicker
from multistride.engines.int8.native.translation import NativeTranslation
from multistride.engines.names import WeightForm
from multistride.model.config import TransformerConfig


def supported(config: TransformerConfig, form: WeightForm) -> bool:
    """Return True for models that the kernels can run: translation models trained here, and
    converted causal ones of Llama's layout with weights in blocks of 8 bits.
    """
    if form != "int8" or config.adapter is not None or not config.decoder_layers:
        return False
    if config.encoder_layers:
        return _is_our_translation(config)
    return block_bits(config, form) == 8 and _is_llama(config)


def _is_our_translation(config: TransformerConfig) -> bool:
    return (
        not config.extras
        and config.norm == "pre"
        and config.activation == "relu"
        and config.positions in ("sinusoidal", "learned")
        and config.hidden_size % PANEL == 0
        and config.feedforward_size % PANEL == 0
        and config.head_width % 16 == 0
        and config.markov_rank % 4 == 0
    )


def _is_llama(config: TransformerConfig) -> bool:
    width = config.head_width
    ends = config.hidden_size, config.feedforward_size, config.heads * width
    keys = 2 * config.key_value_count * width
    return (
        (config.norm, config.norm_kind) == ("pre", "rms")
        and (config.activation, config.gated_feedforward) == ("silu", True)
        and config.positions == "rotary"
        and not config.by_distance
        and not config.parallel_sublayers
        and not config.embedding_norm
        and config.window_rotary_base is None
        and config.attention_cap is None
        and config.output_cap is None
        and not (config.query_key_norm and config.query_key_norm_over == "all")
        and all(end % BLOCK == 0 for end in (*ends, keys))
        and width % 16 == 0
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
    """Native passes and choice of tokens; logits, and what kernels lack, are computed by graphs."""

    def __init__(
        self, graphs: Mapping[str, GraphMaker], threads: int, config: TransformerConfig
    ) -> None:
        super().__init__({name: graphs[name] for name in graphs if name != NATIVE}, threads)
        self._make, self._config = graphs[NATIVE], config
        self._parts: dict[str, Any] = {}

    @cached_property
    def _works(self) -> dict[str, Work]:
        kind = NativeTranslation if self._config.encoder_layers else NativeCausal
        return kind(self._make(), self._config).works

    def __getitem__(self, name: str) -> Any:
        """Return a native part, or else a graph."""
        if name not in self._parts:
            self._parts[name] = self._part(name)
        return self._parts[name]

    def _part(self, name: str) -> Any:
        if (work := self._works.get(name)) is None:
            return super().__getitem__(name)
        if name in ("greedy", "chained"):
            return NativePicker(work, name == "chained", self._threads)
        return NativePass(work, self._threads)

    def decoder(self, new: int) -> Any:
        """Return the decoder, which computes any number of slots."""
        return self["decoder"]
