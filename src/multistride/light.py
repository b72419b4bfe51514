"""Translate with int8 graphs that were kept or exported, without PyTorch.

Importing PyTorch takes longer than translating many sentences. `LightTranslator` writes whole
greedy groups and nothing else. Its texts are those of `Translator` with the same engine, whose
graphs, loop and endings it shares; where it does not suit, `opened` returns None, and `Translator`
says what is wrong, if anything is.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeGuard, get_args

import numpy as np

from multistride.cpu import default_threads
from multistride.data.vocab import VOCABULARY_FILES, Vocabulary
from multistride.data.vocabulary_files import load_vocabulary
from multistride.decode.batches import batches_by_length, padded
from multistride.decode.ending import EndingRule
from multistride.decode.even import decode_even
from multistride.decode.hypothesis import Hypothesis, Running
from multistride.decode.options import DecodeOptions
from multistride.engines.int8.entries import checked_graphs, mark_used, place_of
from multistride.engines.int8.even import EvenEngine
from multistride.engines.int8.forms import by_row
from multistride.engines.int8.native.library import NATIVE, WIDEST, wanted
from multistride.engines.int8.native.networks import supported
from multistride.engines.int8.support import check_int8, check_supported
from multistride.engines.names import EngineName, WeightForm, choice
from multistride.errors import UserError
from multistride.model.config import TransformerConfig
from multistride.model.directory import CONFIG, INT8_NATIVE, is_export, load_config, weights_digest
from multistride.translation import SourceModel

logger = logging.getLogger(__name__)

FORMS: tuple[WeightForm, ...] = get_args(WeightForm)

GPU_DEVICES = ("nvidia*", "nvhost*", "kfd", "dxg")
"""Files of /dev by which Linux reaches a GPU that PyTorch may use."""


@dataclass(frozen=True)
class LightPlan:
    """Whole greedy groups of one size."""

    options: DecodeOptions


class LightTranslator(SourceModel[LightPlan]):
    """A translation model whose int8 graphs were kept by an earlier start, or exported."""

    def __init__(self, engine: EvenEngine, vocabulary: Vocabulary, automatic: bool) -> None:
        """`automatic`: the engine was chosen by `auto`, and says so before it decodes."""
        super().__init__(vocabulary)
        self._engine, self._unannounced = engine, automatic

    @classmethod
    def opened(
        cls,
        directory: Path,
        engine: Literal[WeightForm, "auto"],
        threads: int | None,
        options: DecodeOptions,
    ) -> LightTranslator | None:
        """Return the model of a directory; None where only `Translator` can open it."""
        form: WeightForm = "int8" if engine == "auto" else engine
        try:
            config = load_config(directory)
            check_int8(form)
            check_supported(config)
            if not config.encoder_layers or config.first_token is not None:
                return None
            needed = _needed(config, form, options)
            if needed is None:
                return None
            if is_export(directory):
                if needed == (NATIVE,) and not (directory / INT8_NATIVE).is_file():
                    if (options.group_beam or 1) > 1:
                        return None
                    needed = _graphs(config, form, options.group_size)  # an earlier version's
                graphs = checked_graphs(directory, needed, (CONFIG, *VOCABULARY_FILES))
            else:
                place = place_of(directory, weights_digest(directory), form)
                graphs = checked_graphs(place, needed)
                mark_used(place)
            vocabulary = load_vocabulary(directory)
        except (UserError, OSError):
            return None
        if is_export(directory) and form != "int8":
            return None
        if graphs is None or len(vocabulary) != config.vocabulary_size:
            return None
        own = EvenEngine(config, graphs, threads or default_threads(), form)
        return cls(own, vocabulary, engine == "auto")

    @property
    def config(self) -> TransformerConfig:
        """The sizes, special tokens and group sizes of the model."""
        return self._engine.config

    def decoded(self, rows: Sequence[Sequence[int]], plan: LightPlan) -> list[Hypothesis]:
        """Return what the model writes for the tokens of texts that can be decoded."""
        if rows and self._unannounced:
            logger.info(choice(self._engine.name, self._engine.precision))
            self._unannounced = False
        results: dict[int, Hypothesis] = {}
        for indices in batches_by_length(rows, plan.options.batch_size):
            batch = [rows[index] for index in indices]
            results.update(zip(indices, self._batch(batch, plan.options), strict=True))
        return [results[index] for index in range(len(rows))]

    def _batch(self, sources: list[Sequence[int]], options: DecodeOptions) -> list[Hypothesis]:
        rows, counts = padded(sources, self.config)
        limits = [options.limit(count, self.config) for count in counts]
        state = Running(limits, EndingRule(frozenset(self.config.ends)))
        memory = self._engine.begun(np.array(rows, np.int64), np.array(counts, np.int64))
        beam = options.beam_of_groups(self.config)
        beam = beam if self._engine.searches(beam) else 1
        for _ in decode_even(self._engine, memory, state, options.group_size, beam):
            pass
        return state.hypotheses


def suits(engine: EngineName) -> TypeGuard[Literal[WeightForm, "auto"]]:
    """Return True for the engines that a light translator has."""
    return engine in ("auto", *FORMS)


def suffices(device: str, options: DecodeOptions) -> bool:
    """Return True where a light translator writes what is asked for.

    `device` auto suits machines without a driver of a GPU; with one, PyTorch must look.
    """
    on_cpu = device == "cpu" or (device == "auto" and not _may_have_gpu())
    usual = DecodeOptions()
    given = options.model_fields_set - {"group_size", "group_beam", "batch_size", "max_tokens"}
    plain = all(getattr(options, name) == getattr(usual, name) for name in given)
    return on_cpu and plain


def _may_have_gpu() -> bool:
    if sys.platform == "darwin":
        return False
    devices = Path("/dev")
    return sys.platform == "win32" or any(any(devices.glob(name)) for name in GPU_DEVICES)


def _needed(
    config: TransformerConfig, form: WeightForm, options: DecodeOptions
) -> tuple[str, ...] | None:
    """Return the names of what writes groups; None where nothing does without PyTorch."""
    asked = options.group_beam or 1
    if supported(config, form) and wanted():
        return (NATIVE,) if asked <= WIDEST else None
    return _graphs(config, form, options.group_size) if asked == 1 else None


def _graphs(config: TransformerConfig, form: WeightForm, group_size: int) -> tuple[str, ...]:
    """Return the names of the graphs that write groups of a size."""
    decoder = "single" if group_size == 1 and not by_row(config, form) else "decoder"
    picked = "chained" if config.markov_rank and group_size > 1 else "greedy"
    return ("encoder", decoder, picked)
