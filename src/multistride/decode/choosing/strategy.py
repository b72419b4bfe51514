"""The combined generation-and-parallel strategy: which layout, how many tokens a step, and how many
of them to keep.

`options` say what is wanted, the model's configuration what it was trained for, `Measured` what is
known of it. What comes out are the closures that the loop calls; nothing here runs in a step.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from multistride.decode.accept import (
    Acceptor,
    accept_all,
    as_given,
    confident_prefix,
    first_certain,
)
from multistride.decode.choosing.calibration import Calibration
from multistride.decode.choosing.cost import KeptStatistics, StepCosts
from multistride.decode.choosing.policy import Policy, cost_model, fixed, phase
from multistride.decode.draft_head import DraftHead
from multistride.decode.options import DecodeOptions, Drafts
from multistride.decode.phrases import PhraseTable
from multistride.errors import UsageError
from multistride.model.config import Layout, TransformerConfig
from multistride.model.directory import load_calibration

UNKNOWN = 0.8
"""The share of tokens kept behind a kept one, where nothing was measured: a guess that favours
large groups."""


@dataclass
class Measured:
    """Facts about a model beyond its weights: calibration, step costs, kept groups, phrases,
    and a draft head.

    `statistics` grow while decoding goes on, so one object serves a whole corpus, or a whole
    session.
    """

    calibration: Calibration | None = None
    costs: dict[Layout, StepCosts] = field(default_factory=dict)
    statistics: dict[tuple[Layout, float], KeptStatistics] = field(default_factory=dict)
    phrases: PhraseTable | None = None
    head: DraftHead | None = None

    @classmethod
    def read(cls, directory: Path | str | None, config: TransformerConfig) -> Measured:
        """Return what a model directory holds of it; nothing without a directory.

        Raises `DataError` if a part is damaged, or the calibration belongs to other weights.
        """
        if directory is None:
            return cls()
        sizes = config.hidden_size, config.vocabulary_size
        return cls(
            load_calibration(directory, Calibration),
            phrases=PhraseTable.load(directory, config.vocabulary_size),
            head=None if config.encoder_layers else DraftHead.load(directory, *sizes),
        )


def layout_for(options: DecodeOptions, config: TransformerConfig) -> Layout:
    """The layout of the steps: as asked for, else what suits the way of decoding.

    Groups that change their size, or of which only some is kept, want the lookahead layout, in
    which a step does not depend on where earlier ones ended; a model that was never trained on it
    writes them as the paper does.
    """
    if options.layout is not None:
        return options.layout
    changing = options.mode == "adaptive" or options.policy == "phase"
    return "lookahead" if changing and config.lookahead else "sat"


def drafts_for(options: DecodeOptions, config: TransformerConfig, measured: Measured) -> Drafts:
    """Return the source of drafts in exact mode; by default the best that the model has.

    Masks say nothing where the model was not trained for groups of the size that is asked; where it
    was, samples are drafted by them alone: their drafts are drawn too. Raises
    `UsageError` where a draft head is requested and there is none.
    """
    if options.drafts == "head" and measured.head is None:
        raise UsageError(
            "drafts head was given, and the model's directory holds no draft head "
            "(draft_head.safetensors): copy one there, or choose drafts text"
        )
    if options.drafts is not None:
        return options.drafts
    trained = options.group_size <= max(config.group_sizes)
    if trained and options.temperature > 0:
        return "masks"
    if measured.head is not None:
        return "head"
    if measured.phrases is None:
        return "masks"
    return "both" if trained else "text"


def acceptor_for(options: DecodeOptions, config: TransformerConfig, measured: Measured) -> Acceptor:
    """Return the acceptor: the whole group, or in adaptive mode its confident prefix."""
    if options.mode != "adaptive":
        return accept_all
    layout = layout_for(options, config)
    known = measured.calibration.sureness(layout) if measured.calibration else None
    return confident_prefix(
        options.sure_from, known or (first_certain if layout == "lookahead" else as_given)
    )


def policy_for(options: DecodeOptions, config: TransformerConfig, measured: Measured) -> Policy:
    """Return the policy. Raises `UsageError` if it needs what was not measured."""
    if options.policy == "phase":
        return phase(options.group_size, options.sure_from)
    if options.policy == "autoregressive":
        return fixed(1, "autoregressive")
    if options.policy == "cost-model":
        layout = layout_for(options, config)
        if layout not in measured.costs:
            raise UsageError(
                f"policy cost-model needs the costs of steps in the layout {layout}, and none were "
                "measured: "
                "decode through multistride.load() or the command line, which measure them"
            )
        sizes = [size for size in config.group_sizes if size <= options.group_size]
        return cost_model(measured.costs[layout], statistics_for(options, config, measured), sizes)
    return fixed(options.group_size)


def statistics_for(
    options: DecodeOptions, config: TransformerConfig, measured: Measured
) -> KeptStatistics:
    """Return the statistics of kept tokens at this threshold, begun from the calibration or a
    guess.
    """
    layout, most = layout_for(options, config), max(config.group_sizes)
    key = (layout, options.sure_from)
    if key not in measured.statistics:
        seen = (
            measured.calibration.kept_at(layout, most, options.sure_from)
            if measured.calibration
            else None
        )
        measured.statistics[key] = KeptStatistics(seen or [UNKNOWN] * (most - 1))
    return measured.statistics[key]
