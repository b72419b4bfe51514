"""Options of decoding, and the checks of them against a checkpoint."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any, Literal

from pydantic import ConfigDict, Field, field_validator, model_validator
from pydantic.config import JsonDict

from multistride.config import validate
from multistride.errors import UsageError
from multistride.model.config import Layout, TransformerConfig
from multistride.settings import Settings

Mode = Literal["fast", "adaptive", "exact"]
PolicyName = Literal["fixed", "confidence", "cost-model", "phase", "autoregressive"]
Drafts = Literal["masks", "all-masks", "text", "both", "head"]

RENAMED = {"max_length": "max_tokens", "min_length": "min_tokens"}
"""Old names of options that still work, and the present ones."""

UNTRAINED: tuple[Drafts, ...] = ("text", "head")
"""Sources of drafts beside the model, which need not be trained for the group size."""

DRAWN: tuple[Drafts, ...] = ("masks", "all-masks")
"""Sources that give probabilities: when sampling, drafts are drawn from them. Drafts of the other
sources are not."""

MOST_COPIED = 16
"""The largest group size where text is drafted by copying: no model was trained for it, the check
alone costs."""

POLICIES: dict[PolicyName, tuple[Mode, ...]] = {
    "fixed": ("fast",),
    "confidence": ("adaptive",),
    "cost-model": ("adaptive",),
    "phase": ("fast", "adaptive"),
    "autoregressive": ("fast",),
}
"""The modes that each policy goes with. `fixed` keeps whole groups and `confidence` parts of them,
which is what tells fast from adaptive; `cost-model` weighs what is kept, so something must not be.
Exact mode writes the same whatever is proposed: there `--group-size auto` chooses."""

THRESHOLD = 0.5
"""Where adaptive mode stops keeping tokens if nothing else is said."""

DECODING: JsonDict = {"panel": "Decoding"}
SAMPLING: JsonDict = {"panel": "Sampling"}
TEXT_RULES: JsonDict = {"panel": "Text rules"}
"""The panels of `--help`: options of the command line are made from the fields below
(`cli/fields.py`), which may also give another spelling and old ones."""


class DecodeOptions(Settings):
    """Options of decoding. Frozen; unknown keys are errors."""

    model_config = ConfigDict(defer_build=True)

    group_size: int = Field(
        1,
        description="Tokens written per step (K). 1 is autoregressive.",
        json_schema_extra=DECODING,
    )
    mode: Mode = Field(
        "fast",
        description="fast: keep every token of a group. adaptive: keep confident tokens only. "
        "exact: check every group, so that the text is identical to greedy K=1.",
        json_schema_extra=DECODING,
    )
    threshold: float | None = Field(
        None,
        ge=0,
        le=1,
        description="adaptive: keep tokens of a group while their joint probability is at least "
        f"this (default: {THRESHOLD}).",
        json_schema_extra=DECODING,
    )
    policy: PolicyName | None = Field(
        None,
        description="How many tokens each step proposes. fixed, confidence: always the group "
        "size. cost-model: what is fastest on this machine. phase: fewer where the model is "
        "unsure. autoregressive: one.",
        json_schema_extra=DECODING,
    )
    layout: Layout | None = Field(
        None,
        description="What a step reads. sat: the group before, as in the paper. lookahead: the "
        "last token, then masks. Default: the one the model and the mode need.",
        json_schema_extra=DECODING,
    )
    drafts: Drafts | None = Field(
        None,
        description="exact: where drafts come from. masks: the model, behind the last draft. "
        "all-masks: behind every draft, for fewer passes of more slots. text: what followed the "
        "same tokens before. head: text, and a draft head in the model's directory. Default: head "
        "if there is one; with a table of phrases both (masks and text), or text where masks were "
        "not trained; else masks, also when sampling where they were trained.",
        json_schema_extra=DECODING,
    )
    temperature: float = Field(
        0.0,
        ge=0,
        le=100,
        description="Sample tokens at this temperature (0: choose the most probable one).",
        json_schema_extra=SAMPLING,
    )
    top_k: int = Field(
        0,
        ge=0,
        description="Sample from this many most probable tokens (0: all).",
        json_schema_extra=SAMPLING,
    )
    top_p: float = Field(
        1.0,
        gt=0,
        le=1,
        description="Sample from the most probable tokens whose joint probability reaches this.",
        json_schema_extra=SAMPLING,
    )
    min_p: float = Field(
        0.0,
        ge=0,
        le=1,
        description="Sample from tokens at least this probable, relative to the most probable one.",
        json_schema_extra=SAMPLING,
    )
    seed: int = Field(
        0,
        ge=0,
        description="Random seed. The same input and seed give the same text.",
        json_schema_extra=SAMPLING,
    )
    beam: int = Field(
        1,
        ge=1,
        description="Beam size: hypotheses kept while searching. 1 is greedy.",
        json_schema_extra=DECODING,
    )
    length_penalty: float = Field(
        1.0,
        ge=0,
        le=10,
        description="Beam search ranks by log-probability / length ** this. 0 favours short texts.",
        json_schema_extra=DECODING,
    )
    group_beam: int | None = Field(
        None,
        ge=1,
        le=64,
        description="fast: groups kept while the tokens of one are picked; the most probable wins, "
        "without more network passes. Needs a Markov head. 1 picks token by token. Default: what "
        "the model's config.json says, else 1.",
        json_schema_extra=DECODING,
    )
    min_tokens: int = Field(
        0,
        ge=0,
        description="Minimum number of tokens before EOS. Stop texts end a text all the same.",
        json_schema_extra={**TEXT_RULES, "old": ["--min-length"]},
    )
    max_tokens: int | None = Field(
        None,
        ge=1,
        description="Maximum number of tokens, EOS included. Default for translations: depends "
        "on the length of the source.",
        json_schema_extra={**TEXT_RULES, "old": ["--max-length"]},
    )
    prefix: str = Field(
        "",
        description="Text that every translation begins with.",
        json_schema_extra=TEXT_RULES,
    )
    banned: tuple[str, ...] = Field(
        (),
        description="Never write this text, not even inside a word. Repeatable.",
        json_schema_extra={**TEXT_RULES, "option": "--ban"},
    )
    banned_tokens: tuple[int, ...] = Field(
        (),
        description="Never write the token with this id. Repeatable.",
        json_schema_extra={**TEXT_RULES, "option": "--ban-token"},
    )
    no_repeat_ngram: int = Field(
        0,
        ge=0,
        description="Never repeat an n-gram of this many tokens (0: off).",
        json_schema_extra=TEXT_RULES,
    )
    stop: tuple[str, ...] = Field(
        (),
        description="End a text before this text. Repeatable.",
        json_schema_extra=TEXT_RULES,
    )
    batch_size: int = Field(
        32,
        ge=1,
        description="Texts decoded together (each with all hypotheses of its beam).",
        json_schema_extra={"panel": "Machine"},
    )
    limit_ratio: float = Field(
        2.0,
        gt=0,
        description="Target tokens allowed per source token, on top of limit_extra.",
        json_schema_extra=TEXT_RULES,
    )
    limit_extra: int = Field(
        16,
        ge=1,
        description="Target tokens allowed for every source.",
        json_schema_extra=TEXT_RULES,
    )

    @field_validator("banned", "stop", mode="before")
    @classmethod
    def _several(cls, texts: Any) -> Any:
        if isinstance(texts, str):
            raise ValueError(f"one text was given, several are expected: write [{texts!r}]")
        return texts

    @field_validator("banned", "stop")
    @classmethod
    def _not_empty(cls, texts: tuple[str, ...]) -> tuple[str, ...]:
        if "" in texts:
            raise ValueError("an empty text matches everywhere: give at least one character")
        for text in texts:
            if any("\ud800" <= letter <= "\udfff" for letter in text):
                raise ValueError("a text has half of a character (a lone surrogate): remove it")
        return texts

    @model_validator(mode="before")
    @classmethod
    def _present_names(cls, choices: Any) -> Any:
        """Take an old name for the present one, with a `DeprecationWarning`."""
        if not isinstance(choices, dict):
            return choices
        renamed = dict(choices)
        for old, name in RENAMED.items():
            if old not in renamed:
                continue
            value = renamed.pop(old)
            if name in renamed:
                raise ValueError(f"{old} is an old name of {name}, and both were given: give one")
            warnings.warn(
                f"{old} is now {name}; the old name will go", DeprecationWarning, stacklevel=2
            )
            renamed[name] = value
        return renamed

    def __repr_args__(self) -> Iterator[tuple[str, Any]]:
        """Yield the group size, the mode, and what differs from the defaults: the rest is noise."""
        for name, field in type(self).model_fields.items():
            value = getattr(self, name)
            if name in ("group_size", "mode") or value != field.default:
                yield name, value

    @classmethod
    def made(cls, **choices: Any) -> DecodeOptions:
        """Options from keyword arguments. Raises `UsageError` with the first problem in one
        line.
        """
        return validate(cls, choices, "decoding")

    def given(self) -> dict[str, Any]:
        """Return the fields that were given, and the group size, as keyword arguments."""
        return {"group_size": self.group_size, **self.model_dump(exclude_unset=True)}

    def checked(self, config: TransformerConfig) -> DecodeOptions:
        """These options, if the model can do what they ask. Raises `UsageError` with the allowed
        range.
        """
        self._check_drafts()
        if self.drafts not in UNTRAINED:
            check_group_size(self.group_size, config, self._untrained(config))
        if self.mode != "exact":
            check_writes_groups(self.group_size, config)
        if self.mode != "fast" and self.beam > 1:
            raise UsageError(
                f"mode {self.mode} is greedy, and beam {self.beam} was asked for: choose mode "
                "fast, or beam 1"
            )
        self._check_policy()
        if self.mode != "adaptive" and self.policy != "phase" and self.threshold is not None:
            raise UsageError(
                f"threshold {self.threshold} was given, and mode {self.mode} has none: "
                "choose mode adaptive, or leave the threshold out"
            )
        self._check_sampling()
        self._check_group_beam(config)
        self.check_lengths(config)
        self._check_tokens(config)
        if self.beam > config.vocabulary_size:
            raise UsageError(
                f"beam {self.beam} was asked for; the vocabulary of this checkpoint has "
                f"{config.vocabulary_size} "
                f"entries: choose a beam from 1 to {config.vocabulary_size}"
            )
        return self

    def _check_drafts(self) -> None:
        """Raise `UsageError` where nothing is drafted, or what text drafts cannot be checked."""
        if self.drafts is None:
            return
        if self.mode != "exact":
            raise UsageError(
                f"drafts {self.drafts} was given, and mode {self.mode} has none: choose mode "
                "exact, or leave it out"
            )
        if self.drafts in UNTRAINED and not 1 <= self.group_size <= MOST_COPIED:
            raise UsageError(
                f"group size {self.group_size} was asked for; drafts of {self.drafts} are checked "
                f"at most {MOST_COPIED} at a time: choose one from 1 to {MOST_COPIED}"
            )

    def _check_policy(self) -> None:
        """Raise `UsageError` for a policy or a layout that does not go with the rest."""
        other = f"beam {self.beam}" if self.beam > 1 else f"mode {self.mode}"
        if self.layout is not None and (self.beam > 1 or self.mode == "exact"):
            raise UsageError(
                f"layout {self.layout} was given, and {other} has its own: leave it out, or choose "
                "another way"
            )
        if self.policy is None:
            return
        if self.beam > 1:
            raise UsageError(
                f"policy {self.policy} was given, and all hypotheses of {other} are in one step, "
                "which has one size: "
                "leave the policy out, or choose beam 1"
            )
        if self.mode not in (modes := POLICIES[self.policy]):
            raise UsageError(
                f"policy {self.policy} was given with mode {self.mode}, and it goes with mode "
                f"{' or '.join(modes)}: "
                "choose that mode, or leave the policy out"
            )
        if self.policy == "autoregressive" and self.group_size > 1:
            raise UsageError(
                f"policy autoregressive writes one token a step, and group size {self.group_size} "
                "was asked for: "
                "leave one of them out"
            )
        if self.policy in ("phase", "cost-model") and self.temperature > 0:
            raise UsageError(
                f"policy {self.policy} was given with temperature {self.temperature}, and what is "
                "drawn would depend "
                "on the rest of the batch: choose temperature 0, or leave the policy out"
            )

    def _check_sampling(self) -> None:
        if self.temperature > 0 and self.beam > 1:
            raise UsageError(
                f"temperature {self.temperature} draws tokens by chance and beam {self.beam} does "
                "not: "
                "choose one of them"
            )
        if self.temperature == 0:
            self._refuse_given(
                ("top_k", "top_p", "min_p", "seed"),
                "at temperature 0 nothing is drawn",
                "give a temperature above 0",
            )
        if self.beam == 1:
            self._refuse_given(
                ("length_penalty",), "beam 1 is greedy and ranks nothing", "give a beam above 1"
            )

    def beam_of_groups(self, config: TransformerConfig) -> int:
        """Return `group_beam`, or what the model says where groups are written greedily."""
        if self.group_beam is not None:
            return self.group_beam
        greedy = self.beam == 1 and self.temperature == 0 and config.markov_rank > 0
        fixed = self.mode == "fast" and self.policy in (None, "fixed") and self.group_size > 1
        return config.group_beam if greedy and fixed else 1

    def _untrained(self, config: TransformerConfig) -> str:
        """Return what else the refusal of a group size says: how it works without training."""
        if self.mode == "exact":
            return ", or drafts text, which needs no training"
        if max(config.group_sizes) == 1 and self.group_size <= MOST_COPIED and self.beam == 1:
            return ", or mode exact with drafts text, which needs no training"
        return ""

    def _check_group_beam(self, config: TransformerConfig) -> None:
        """Raise `UsageError` where there is no group to search, or something else picks tokens."""
        if self.group_beam in (None, 1):
            return
        others = {
            f"mode {self.mode} picks tokens in its own way": self.mode != "fast",
            f"beam {self.beam} keeps hypotheses of its own": self.beam > 1,
            f"temperature {self.temperature} draws tokens": self.temperature > 0,
            f"policy {self.policy} proposes groups of several sizes": self.policy
            not in (None, "fixed"),
            "group size 1 writes groups of one token": self.group_size == 1,
            "the tokens of a group do not depend on each other in this checkpoint, which has no "
            "Markov head": config.markov_rank == 0,
        }
        for why, excluded in others.items():
            if excluded:
                raise UsageError(f"group_beam {self.group_beam} was given, and {why}: leave it out")

    def _refuse_given(self, names: tuple[str, ...], why: str, instead: str) -> None:
        """Raise `UsageError` for the first of these that was given, at its default value too."""
        for name in names:
            if name in self.model_fields_set and getattr(self, name) is not None:
                raise UsageError(
                    f"{name} {getattr(self, name)} was given, and {why}: {instead}, or leave it out"
                )

    def check_lengths(self, config: TransformerConfig) -> None:
        """Raise `UsageError` for limits that no text of the model can have."""
        longest = config.max_positions
        bounded = (
            config.encoder_layers > 0
        )  # a causal model writes as much as its context has room for
        if bounded and self.max_tokens is not None and self.max_tokens > longest:
            raise UsageError(
                f"max_tokens {self.max_tokens} was given; this checkpoint has {longest} positions: "
                f"choose one from 1 to {longest}"
            )
        if self.min_tokens > (self.max_tokens or longest):
            raise UsageError(
                f"min_tokens {self.min_tokens} was given, and a translation has at most "
                f"{self.max_tokens or longest} "
                "tokens: choose a smaller one"
            )

    def _check_tokens(self, config: TransformerConfig) -> None:
        for token in self.banned_tokens:
            if not 0 <= token < config.vocabulary_size:
                raise UsageError(
                    f"token {token} was banned; this checkpoint has 0 to "
                    f"{config.vocabulary_size - 1}: choose one"
                )
            if token in config.ends:
                raise UsageError(
                    f"token {token} ends a sentence and cannot be banned: give min_tokens instead"
                )

    @property
    def constrained(self) -> bool:
        """True if a rule beside the model and the limit decides what is written."""
        lengths = self.min_tokens or self.no_repeat_ngram
        return bool(lengths or self.prefix or self.banned or self.banned_tokens or self.stop)

    @property
    def sure_from(self) -> float:
        """The probability down to which adaptive mode keeps tokens, and from which the policy
        `phase` writes more.
        """
        return THRESHOLD if self.threshold is None else self.threshold

    def limit(self, source_tokens: int, config: TransformerConfig, prefix_tokens: int = 0) -> int:
        """The most tokens, EOS included, that a source of `source_tokens` tokens may become.

        Without `max_tokens` it holds at least `min_tokens` and EOS, and `limit_extra` tokens after
        a prefix. In a causal model: that may follow a prompt of so many, in one context with it.
        """
        if not config.encoder_layers:
            room = config.max_positions - source_tokens
            return room if self.max_tokens is None else min(room, self.max_tokens)
        if self.max_tokens is not None:
            return self.max_tokens
        by_source = int(source_tokens * self.limit_ratio) + self.limit_extra
        after_prefix = prefix_tokens + self.limit_extra if prefix_tokens else 0
        return min(max(by_source, self.min_tokens + 1, after_prefix), config.max_positions)


def check_writes_groups(group_size: int, config: TransformerConfig) -> None:
    """Raise `UsageError` where groups are asked of a checkpoint that can only draft them (see
    `model.adapters`).
    """
    if config.adapter is not None and group_size > 1:
        raise UsageError(
            f"group size {group_size} was asked for without checking; the adapters of this "
            "checkpoint only write "
            "drafts: choose mode exact, or group size 1"
        )


def check_group_size(group_size: int, config: TransformerConfig, otherwise: str = "") -> None:
    """Raise `UsageError`, which ends in `otherwise`, unless the checkpoint can write `group_size`
    tokens per step.
    """
    trained = ", ".join(str(size) for size in config.group_sizes)
    largest = max(config.group_sizes)
    if not 1 <= group_size <= largest:
        allowed = "1" if largest == 1 else f"one from 1 to {largest}"
        raise UsageError(
            f"group size {group_size} was asked for; this checkpoint was trained for {trained}: "
            f"choose {allowed}{otherwise}"
        )
