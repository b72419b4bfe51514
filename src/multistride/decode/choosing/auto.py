"""`--group-size auto`: the size that writes the most tokens a millisecond, from what was measured
beforehand.

Only tokens that are worth having count: in fast mode those that K=1 would have written too, in
adaptive mode those that are kept, in exact mode those that the drafts save.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from multistride.decode.choosing.calibration import Calibration
from multistride.decode.choosing.strategy import Measured, layout_for
from multistride.decode.options import DecodeOptions
from multistride.errors import UsageError
from multistride.model.config import Layout, TransformerConfig


class Offer(NamedTuple):
    """One group size: the tokens a step of it is worth, and the milliseconds it costs."""

    group_size: int
    tokens: float
    milliseconds: float

    @property
    def rate(self) -> float:
        """Tokens a millisecond."""
        return self.tokens / self.milliseconds


def check_auto(
    options: DecodeOptions, config: TransformerConfig, measured: Measured
) -> Calibration:
    """The calibration that the choice needs.

    Raises `UsageError` if there is none, with a beam, with sampling, or where drafts were chosen.
    """
    if (options.group_beam or 1) > 1:
        raise UsageError(
            f"group size auto was asked for with group_beam {options.group_beam}, whose worth was "
            "not measured: give a number, or leave the group beam out"
        )
    if options.beam > 1 or options.temperature > 0:
        other = f"beam {options.beam}" if options.beam > 1 else f"temperature {options.temperature}"
        raise UsageError(
            f"group size auto is measured on greedy decoding, and {other} was asked for: give a "
            "number"
        )
    if options.drafts is not None:
        raise UsageError(
            f"group size auto weighs what masks draft, and drafts {options.drafts} was given: give "
            "a number, or "
            "leave the drafts out"
        )
    if not config.encoder_layers:
        raise UsageError(
            "group size auto needs a calibration, and causal models have none: give a number"
        )
    if measured.calibration is None:
        raise UsageError(
            "group size auto needs to know how often groups are right, and this model was not "
            "calibrated: "
            "run `multistride calibrate` on it, or give a number"
        )
    return measured.calibration


def offers(options: DecodeOptions, config: TransformerConfig, measured: Measured) -> list[Offer]:
    """Every trained group size as an offer, for batches of `options.batch_size` decoded as the
    other options say.

    The costs of the layout must have been measured. Raises `UsageError` as `check_auto` does.
    """
    calibration, layout = check_auto(options, config, measured), costly_layout(options, config)
    costs = measured.costs[layout]
    found = []
    for size in config.group_sizes:
        right = calibration.right_shares(layout, size)
        if options.mode == "exact":
            tokens = drafted(right)
        elif options.mode == "adaptive":
            tokens = prefix(calibration.kept_at(layout, size, options.sure_from) or [])
        else:
            tokens = prefix(right)
        found.append(Offer(size, tokens, costs.milliseconds(options.batch_size, size)))
    return found


def best(offered: Sequence[Offer]) -> Offer:
    """The offer with the most tokens a millisecond; of equal ones the smaller group."""
    return max(offered, key=lambda offer: (offer.rate, -offer.group_size))


def explained(offered: Sequence[Offer]) -> str:
    """Return one line that says which group size was chosen, and why."""
    chosen = best(offered)
    rates = ", ".join(
        f"K={each.group_size} {each.tokens:.2f} in {each.milliseconds:.1f} ms" for each in offered
    )
    return f"group size auto: K={chosen.group_size}; tokens per step of each text: {rates}"


def costly_layout(options: DecodeOptions, config: TransformerConfig) -> Layout:
    """The layout whose steps cost what decoding will: drafts are checked and made in the lookahead
    layout.
    """
    return "lookahead" if options.mode == "exact" else layout_for(options, config)


def prefix(shares: Sequence[float]) -> float:
    """The expected length of a prefix whose places each follow the one before with these shares, at
    least 1.
    """
    return 1 + float(np.cumprod(shares).sum())


def drafted(shares: Sequence[float]) -> float:
    """Tokens a pass of exact mode: after a pass whose drafts were all right comes one that checks
    new ones, after any other one that only drafts and writes a single token.

    With r the chance that all drafts are right and t the tokens of a checking pass, a share 1 / (2
    - r) of the passes check, which gives (1 - r + t) / (2 - r) tokens a pass.
    """
    if not shares:
        return 1.0
    all_right = float(np.prod(shares))
    return (1 - all_right + prefix(shares)) / (2 - all_right)
