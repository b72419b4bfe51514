"""What a person may ask of decoding, checked against the checkpoint before anything runs."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from multistride.config import validate
from multistride.errors import UsageError
from multistride.model.config import TransformerConfig

Mode = Literal["fast", "adaptive", "exact"]

THRESHOLD = 0.5
"""Where adaptive mode stops keeping tokens if nothing else is said."""


class DecodeOptions(BaseModel):
    """How to decode. Frozen; unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    group_size: int = Field(1, description="tokens written per step (K); 1 is autoregressive")
    mode: Mode = Field(
        "fast", description="fast: every token of a group is kept; adaptive: the sure ones; exact: the text of K=1"
    )
    threshold: float | None = Field(
        None, ge=0, le=1, description=f"adaptive: keep tokens while they are together this probable ({THRESHOLD})"
    )
    temperature: float = Field(
        0.0, ge=0, le=100, description="above 0 tokens are drawn by chance; 1 is the model's own distribution"
    )
    top_k: int = Field(0, ge=0, description="sampling: only from so many most probable tokens; 0 for all")
    top_p: float = Field(1.0, gt=0, le=1, description="sampling: only from the most probable tokens with this mass")
    min_p: float = Field(0.0, ge=0, le=1, description="sampling: only from tokens this probable beside the best one")
    seed: int = Field(0, ge=0, description="sampling: the same source with the same seed gives the same text")
    beam: int = Field(1, ge=1, description="hypotheses kept while searching; 1 is greedy")
    length_penalty: float = Field(
        1.0, ge=0, le=10, description="beam search ranks by log-probability / length ** this; 0 favours short outputs"
    )
    batch_size: int = Field(32, ge=1, description="sentences decoded together (each with `beam` hypotheses)")
    max_tokens: int | None = Field(None, ge=1, description="most tokens written, EOS included; none: see the limits")
    limit_ratio: float = Field(2.0, gt=0, description="target tokens allowed per source token, on top of limit_extra")
    limit_extra: int = Field(16, ge=1, description="target tokens allowed whatever the source")

    @classmethod
    def made(cls, **choices: Any) -> DecodeOptions:
        """Options from keyword arguments. Raises `UsageError` with the first problem in one line."""
        return validate(cls, choices, "decoding")

    def checked(self, config: TransformerConfig) -> DecodeOptions:
        """These options, if the model can do what they ask. Raises `UsageError` with the allowed range."""
        check_group_size(self.group_size, config)
        if self.mode != "exact":
            check_writes_groups(self.group_size, config)
        if self.mode != "fast" and self.beam > 1:
            raise UsageError(
                f"mode {self.mode} is greedy, and beam {self.beam} was asked for: choose mode fast, or beam 1"
            )
        if self.mode != "adaptive" and self.threshold is not None:
            raise UsageError(
                f"threshold {self.threshold} was given, and mode {self.mode} has none: "
                "choose mode adaptive, or leave the threshold out"
            )
        self._check_sampling()
        if self.beam > config.vocabulary_size:
            raise UsageError(
                f"beam {self.beam} was asked for; the vocabulary of this checkpoint has {config.vocabulary_size} "
                f"entries: choose a beam from 1 to {config.vocabulary_size}"
            )
        return self

    def checked_for_streaming(self, config: TransformerConfig) -> DecodeOptions:
        """These options, if the model can do what they ask and show it meanwhile. Raises `UsageError` if not."""
        if self.beam > 1:
            raise UsageError(
                f"beam {self.beam} was asked for, and its best text is known only in the end: "
                "choose beam 1, or translate without streaming"
            )
        return self.checked(config)

    def _check_sampling(self) -> None:
        if self.temperature > 0 and (self.beam > 1 or self.mode == "exact"):
            other = f"beam {self.beam}" if self.beam > 1 else "mode exact"
            raise UsageError(
                f"temperature {self.temperature} draws tokens by chance and {other} does not: choose one of them"
            )
        given = [
            name
            for name in ("top_k", "top_p", "min_p", "seed")
            if getattr(self, name) != type(self).model_fields[name].default
        ]
        if given and self.temperature == 0:
            raise UsageError(
                f"{given[0]} {getattr(self, given[0])} was given, and at temperature 0 nothing is drawn: "
                "give a temperature above 0, or leave it out"
            )

    @property
    def sure_from(self) -> float:
        """The probability down to which adaptive mode keeps tokens."""
        return THRESHOLD if self.threshold is None else self.threshold

    def limit(self, source_tokens: int, config: TransformerConfig) -> int:
        """The most tokens, EOS included, that a source of `source_tokens` tokens may become.

        In a causal model: that may follow a prompt of so many, in one context with it.
        """
        if config.encoder_layers:
            most = min(int(source_tokens * self.limit_ratio) + self.limit_extra, config.max_positions)
        else:
            most = config.max_positions - source_tokens
        return most if self.max_tokens is None else min(most, self.max_tokens)


def check_writes_groups(group_size: int, config: TransformerConfig) -> None:
    """Raise `UsageError` where groups are asked of a checkpoint that can only draft them (see `model.adapters`)."""
    if config.adapter is not None and group_size > 1:
        raise UsageError(
            f"group size {group_size} was asked for without checking; the adapters of this checkpoint only write "
            "drafts: choose mode exact, or group size 1"
        )


def check_group_size(group_size: int, config: TransformerConfig) -> None:
    """Raise `UsageError` unless the checkpoint can write `group_size` tokens per step."""
    trained = ", ".join(str(size) for size in config.group_sizes)
    if not 1 <= group_size <= max(config.group_sizes):
        raise UsageError(
            f"group size {group_size} was asked for; this checkpoint was trained for {trained}: "
            f"choose one from 1 to {max(config.group_sizes)}"
        )
