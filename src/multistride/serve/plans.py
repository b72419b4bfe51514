"""Plans of what requests choose, and what their steps cost: kept, since most requests choose alike.

Both sides of a link make them: the event loop to check a request, the rounds to decode it.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Protocol

from multistride.data.vocab import Vocabulary
from multistride.decode.choosing.auto import Offer, best, costly_layout, offers
from multistride.decode.choosing.strategy import Measured, drafts_for
from multistride.decode.options import MOST_COPIED, UNTRAINED, DecodeOptions, Drafts, Mode
from multistride.decode.plan import Plan, plan
from multistride.errors import UsageError
from multistride.model.config import Layout, TransformerConfig
from multistride.serve.orders import Choices

UNMEASURED = 4
"""The group size of `auto` where nothing is known of the model, if it was trained for it or drafts
without training."""

BETTER = 1.1
"""`auto` changes to a group size that is expected to be so many times as fast: texts of one size
share batches, so a change that gains less costs more."""

PRICED = ("mode", "threshold", "drafts", "temperature")
"""Choices that decide what a step costs and what it is worth."""


class Planned(Protocol):
    """A `TextModel`, as far as plans need it."""

    @property
    def config(self) -> TransformerConfig:
        """The model's sizes, special tokens and group sizes."""

    @property
    def vocabulary(self) -> Vocabulary:
        """The vocabulary."""

    @property
    def measured(self) -> Measured:
        """Facts about the model."""

    def price(self, options: DecodeOptions) -> None:
        """Know what steps cost."""


class Plans:
    """The plans of one model."""

    def __init__(self, model: Planned) -> None:
        self.model = model
        self.of = lru_cache(maxsize=256)(self._plan)
        """Returns the options of some choices, and their plan: one object for the same choices.
        Raises `UsageError` for choices that the model or mode does not take."""
        self.offers = lru_cache(maxsize=1024)(self._offers)
        self._chosen: dict[Mode, int] = {}
        self._priced = lru_cache(maxsize=4096)(self._price)

    def measure(self, mode: Mode) -> None:
        """Know what steps of a mode cost, for `group_size: auto`.

        It is measured once on a machine, and takes some seconds; other modes have a fixed size.
        """
        if self.model.measured.calibration is not None:
            largest = max(self.model.config.group_sizes)
            self.model.price(DecodeOptions.made(group_size=largest, mode=mode))

    def largest(self, mode: Mode) -> int:
        """Return the largest group size that a request may ask for."""
        trained = max(self.model.config.group_sizes)
        if mode == "exact" and self._drafts(MOST_COPIED, {}) in UNTRAINED:
            return max(trained, MOST_COPIED)
        return trained

    def cost(self, rows: int, plan: Plan) -> float | None:
        """Return the milliseconds of a step alone; None if steps like it were not measured."""
        return self._priced(rows, plan.group_size, costly_layout(plan.options, self.model.config))

    def size(self, chosen: dict[str, Any], load: int, overhead: float) -> int:
        """Return the group size that is expected to be fastest at this load.

        A step costs what it was measured to cost alone, and what rounds of this server take beside
        (`overhead` milliseconds a text): under load that is much of it, and the same for every
        size, so larger groups are worth it.
        """
        offered, mode = self.offers(load, *(chosen.get(name) for name in PRICED)), chosen["mode"]
        if not offered:
            sizes = self.model.config.group_sizes
            if mode == "exact" and self._drafts(UNMEASURED, chosen) in UNTRAINED:
                return UNMEASURED
            return UNMEASURED if UNMEASURED in sizes else max(sizes)
        beside = load * overhead
        priced = {
            each.group_size: each._replace(milliseconds=each.milliseconds + beside)
            for each in offered
        }
        fastest, before = best([*priced.values()]), self._chosen.get(mode)
        if before is not None and before in priced and BETTER * priced[before].rate > fastest.rate:
            return before
        self._chosen[mode] = fastest.group_size
        return fastest.group_size

    def _drafts(self, group_size: int, chosen: dict[str, Any]) -> Drafts:
        """Return the source of drafts in exact mode."""
        given = {name: chosen[name] for name in ("drafts", "temperature") if name in chosen}
        options = DecodeOptions.made(mode="exact", group_size=group_size, **given)
        return drafts_for(options, self.model.config, self.model.measured)

    def _plan(self, choices: Choices) -> tuple[DecodeOptions, Plan]:
        options = DecodeOptions.made(**dict(choices))
        knowledge = self.model.measured if options.mode != "fast" else None
        return options, plan(options, self.model.config, self.model.vocabulary, knowledge)

    def _price(self, rows: int, group_size: int, layout: Layout) -> float | None:
        costs = self.model.measured.costs.get(layout)
        return None if costs is None else costs.milliseconds(rows, group_size)

    def _offers(self, load: int, *choices: Any) -> list[Offer]:
        """Return the group sizes and what steps of them cost alone; none if that is not known."""
        given = zip(PRICED, choices, strict=True)
        chosen = {name: value for name, value in given if value is not None}
        config, measured = self.model.config, self.model.measured
        try:
            options = DecodeOptions.made(
                **chosen, group_size=max(config.group_sizes), batch_size=load
            )
            return offers(options, config, measured)
        except (UsageError, KeyError):  # not calibrated, or nothing measured for this way
            return []
