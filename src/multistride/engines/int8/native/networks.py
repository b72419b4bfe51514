"""The networks of a model, computed by the native kernels where these can."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any

from multistride.engines.int8.buffers import (
    Array,
    CheckedSlots,
    GraphMaker,
    Networks,
    searched_by,
)
from multistride.engines.int8.forms import block_bits, by_row
from multistride.engines.int8.native.converted import NativeConverted
from multistride.engines.int8.native.library import NATIVE, PANEL, VECTOR, Work, wanted
from multistride.engines.int8.native.passes import NativePass, NativePicker, NativeSearch
from multistride.engines.int8.native.translation import NativeTranslation
from multistride.engines.names import WeightForm
from multistride.model.config import TransformerConfig


def supported(config: TransformerConfig, form: WeightForm) -> bool:
    """Return True for models whose sizes the kernels can compute, with weights of 8 bits."""
    if config.adapter is not None or not config.decoder_layers:
        return False
    if not by_row(config, form):
        return _is_our_translation(config)
    width = config.head_width
    queries, keys = config.heads * width, config.key_value_count * width
    ends = config.hidden_size, config.feedforward_size, queries, 2 * keys
    return (
        block_bits(config, form) in (0, 8)
        and all(end % PANEL == 0 for end in ends)
        and width % VECTOR == 0
        and config.markov_rank % 4 == 0
        and not (config.query_key_norm_over == "all" and keys % VECTOR)
    )


def _is_our_translation(config: TransformerConfig) -> bool:
    return (
        config.encoder_layers > 0
        and config.norm == "pre"
        and config.activation == "relu"
        and config.positions in ("sinusoidal", "learned")
        and config.hidden_size % VECTOR == 0
        and config.feedforward_size % VECTOR == 0
        and config.markov_rank % 4 == 0
    )


def networks_of(
    graphs: Mapping[str, GraphMaker], threads: int, config: TransformerConfig, form: WeightForm
) -> Networks:
    """Return the networks of a model: native ones, if its graphs hold their weights and they can
    run here.

    Raises `UsageError` for a choice of kernels that cannot be met.
    """
    if wanted() and NATIVE in graphs:
        return NativeNetworks(graphs, threads, config, form)
    return Networks(graphs, threads)


class NativeNetworks(Networks):
    """Native passes and choice of tokens; logits are computed by graphs."""

    def __init__(
        self,
        graphs: Mapping[str, GraphMaker],
        threads: int,
        config: TransformerConfig,
        form: WeightForm,
    ) -> None:
        super().__init__({name: graphs[name] for name in graphs if name != NATIVE}, threads)
        self._make, self._config, self._form = graphs[NATIVE], config, form
        self._parts: dict[str, Any] = {}

    @cached_property
    def _works(self) -> dict[str, Work]:
        if by_row(self._config, self._form):
            return NativeConverted(self._make(), self._config, self._form).works
        return NativeTranslation(self._make(), self._config).works

    def __getitem__(self, name: str) -> Any:
        """Return a native part, or else a graph."""
        if name not in self._parts:
            self._parts[name] = self._part(name)
        return self._parts[name]

    def _part(self, name: str) -> Any:
        if name in ("greedy", "chained"):
            chain = self._works["chain"] if name == "chained" else None
            return NativePicker(self._works["greedy"], chain, self._threads)
        if (beam := searched_by(name)) is not None:
            works = self._works["greedy"], self._works["search"]
            return NativeSearch(*works, self._config.ends, beam, self._threads)
        if (work := self._works.get(name)) is None:
            return super().__getitem__(name)
        return NativePass(work, self._threads)

    def decoder(self, new: int) -> Any:
        """Return the decoder, which computes any number of slots."""
        return self["decoder"]

    def check(self, hidden: Array, clean: int, chained: bool) -> CheckedSlots:
        """Pick in clean slots and draft in the others, in one product for a single sentence.

        In a batch not all rows want drafts: theirs are computed when they are known.
        """
        if len(hidden) > 1:
            return super().check(hidden, clean, chained)
        picker: NativePicker = self["chained" if chained else "greedy"]
        return picker.check(hidden, clean)
