"""Everything that is decided before decoding begins, once: checks, rules, and what the loop calls.

`plan` is the one place where options meet a model. A `Plan` holds them, the rules made of them, and
closures: which layout, how many tokens a step proposes (`policy`) and how many of them are kept
(`accept`). Nothing of this runs again in a step, and nobody checks options a second time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from multistride.data.vocab import Vocabulary
from multistride.decode.accept import Acceptor
from multistride.decode.choosing.economy import Economy
from multistride.decode.choosing.policy import Policy, checked
from multistride.decode.choosing.strategy import (
    Measured,
    acceptor_for,
    drafts_for,
    layout_for,
    policy_for,
)
from multistride.decode.constraints import Constraints, check_prompted, constraints_of
from multistride.decode.ending import EndingRule
from multistride.decode.options import DRAWN, UNTRAINED, DecodeOptions, Drafts, Mode
from multistride.decode.spans import Allowing
from multistride.errors import UsageError
from multistride.model.config import Layout, TransformerConfig


@dataclass(frozen=True)
class Plan:
    """A way of decoding for one model: checked options and what follows from them.

    `policy` proposes the size of every row's next group, `accept` says how much of it is kept (both
    of no concern to exact mode and beam search). `knowledge` is what is known of the model beyond
    its weights; its statistics grow while decoding goes on.
    """

    options: DecodeOptions
    config: TransformerConfig = field(repr=False)
    rules: Constraints = field(repr=False)
    layout: Layout
    drafts: Drafts
    policy: Policy = field(repr=False)
    accept: Acceptor = field(repr=False)
    knowledge: Measured = field(default_factory=Measured, repr=False)
    custom_policy: bool = field(default=False, repr=False)
    """True if `policy` is a function of the caller's own, of which options know nothing."""
    searches: bool = field(default=True, repr=False)
    """False where groups are searched only if options say so: on engines that are slow at it."""
    economy: Economy | None = field(default=None, repr=False)
    """Says where exact mode drafts at all; None: everywhere."""

    @property
    def group_size(self) -> int:
        """Most tokens written per step (K)."""
        return self.options.group_size

    @property
    def mode(self) -> Mode:
        """The mode: fast, adaptive or exact."""
        return self.options.mode

    @property
    def plain(self) -> bool:
        """True if nothing is sampled or barred: the most probable is written."""
        return self.options.temperature == 0 and not self._barred

    @property
    def _barred(self) -> bool:
        return self.rules.permitted is not None or self.rules.allowing is not None

    @property
    def greedy(self) -> bool:
        """True if every token is the most probable one: nothing is sampled, searched or barred."""
        return self.plain and self.group_beam == 1

    @property
    def group_beam(self) -> int:
        """Groups kept while the tokens of one are picked: as options or the model say, where
        nothing else has a say.
        """
        unasked = self.options.group_beam is None
        if unasked and (self._barred or self.custom_policy or not self.searches):
            return 1
        return self.options.beam_of_groups(self.config)

    @property
    def free(self) -> bool:
        """True if the model alone decides: no sampling, prefix, stop texts or least length."""
        return self.plain and self.rules == Constraints()

    @property
    def whole_groups(self) -> bool:
        """True if every step writes a whole group of one size in the layout of the paper."""
        fixed = self.options.policy in (None, "fixed") and not self.custom_policy
        return self.mode == "fast" and fixed and self.layout == "sat"

    @property
    def ending(self) -> EndingRule:
        """The rule that ends a text: the model's EOS tokens and the stop texts asked for."""
        return EndingRule(frozenset(self.config.ends), self.rules.stopped)

    def limit(self, source_tokens: int) -> int:
        """Return the most tokens, EOS included, that a source of so many tokens may become."""
        return self.options.limit(source_tokens, self.config, len(self.rules.prefix))

    def allowing(self, allow: Callable[[Sequence[int]], Allowing]) -> Plan:
        """Return the plan in which every source has a rule of its own (see `Constraints`).

        Raises `UsageError` with a group beam, which knows no rules, and for what is no function.
        """
        _check_function(allow, "the rule", "of the tokens of a source")
        _check_picked(self.options, barred=True)
        return replace(self, rules=replace(self.rules, allowing=allow))

    def of_size(self, group_size: int) -> Plan:
        """Return the plan with another group size, one that the checkpoint was trained for.

        Its policy is that of the options, also where `proposing` gave another.
        """
        options = self.options.model_copy(update={"group_size": group_size})
        policy = policy_for(options, self.config, self.knowledge)
        return replace(self, options=options, policy=policy, custom_policy=False)

    def thrifty(self) -> Plan:
        """Return the plan in which exact mode drafts only where that pays; the text is the same.

        Samples that masks draft are left as they are: they depend on where drafts begin.
        """
        drawn = self.options.temperature > 0 and self.drafts in DRAWN
        if self.mode != "exact" or drawn or self.group_size == 1:
            return self
        return replace(self, economy=Economy())

    def without_drafts(self) -> Plan:
        """Return the plan of K=1, which writes what exact mode writes."""
        options = self.options.model_copy(update={"group_size": 1, "mode": "fast", "drafts": None})
        return replace(
            self,
            options=options,
            layout=layout_for(options, self.config),
            policy=policy_for(options, self.config, self.knowledge),
            accept=acceptor_for(options, self.config, self.knowledge),
            economy=None,
        )

    def proposing(self, policy: Policy) -> Plan:
        """Return the plan with another policy, a function of one's own (`choosing.policy.Policy`).

        Raises `UsageError` for modes that have their own, for beams of both kinds, and for what is
        no function; the plan raises it for what the function returns that is no `Proposal`.
        """
        _check_function(policy, "the policy", "of the state of a batch")
        if self.options.beam > 1:
            raise UsageError(
                f"a policy was given with a beam of {self.options.beam}, which writes groups of "
                "one size: leave one of them out"
            )
        if self.mode != "fast":
            raise UsageError(
                f"a policy was given, and mode {self.mode} has its own: choose mode fast, or leave "
                "it out"
            )
        if (self.options.group_beam or 1) > 1:
            raise UsageError(
                f"a policy was given with group_beam {self.options.group_beam}, which compares "
                "groups of one size: leave one of them out"
            )
        own = checked(policy, max(self.config.group_sizes))
        return replace(self, policy=own, custom_policy=True)


def plan(
    options: DecodeOptions,
    config: TransformerConfig,
    vocabulary: Vocabulary | None = None,
    knowledge: Measured | None = None,
) -> Plan:
    """Return the plan of decoding as `options` say with a model of this `config`.

    Rules about text need the `vocabulary`. Raises `UsageError` for options that the model or their
    mode does not take, or for a policy that needs what `knowledge` does not hold.
    """
    known, asked = knowledge or Measured(), options
    if options.mode == "exact" and options.drafts is None:
        drafts = drafts_for(options, config, known)
        asked = options.model_copy(update={"drafts": drafts}) if drafts in UNTRAINED else options
    asked.checked(config)
    rules = constraints_of(options, config, vocabulary)
    _check_picked(options, rules.permitted is not None)
    if not config.encoder_layers:
        check_prompted(rules)
    return Plan(
        options,
        config,
        rules,
        layout_for(options, config),
        drafts_for(options, config, known),
        policy_for(options, config, known),
        acceptor_for(options, config, known),
        known,
    )


def _check_function(function: Any, name: str, argument: str) -> None:
    """Raise `UsageError` for what is no function."""
    if not callable(function):
        raise UsageError(f"{name} is {function!r}, and is called: give a function {argument}")


def _check_picked(options: DecodeOptions, barred: bool) -> None:
    """Raise `UsageError` for a group beam where rules bar tokens: it knows none."""
    if (options.group_beam or 1) > 1 and barred:
        raise UsageError(
            f"group_beam {options.group_beam} was given, and rules about what may be written pick "
            "token by token: leave one of them out"
        )


def planned(requested: Plan | DecodeOptions, config: TransformerConfig) -> Plan:
    """Return the plan of options that nobody has planned yet: no rules about text, no knowledge."""
    return requested if isinstance(requested, Plan) else plan(requested, config)
