"""What `multistride distill` is asked to do."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from multistride.errors import UsageError

EngineChoice = Literal["auto", "ctranslate2", "eager"]


class DistillConfig(BaseModel):
    """One corpus, one teacher, one output. Frozen; unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: Path = Field(description="model directory of the teacher")
    source: Path = Field(description="source text, one a line (.gz and .xz too)")
    output: Path = Field(
        description="file to write, line n for source line n; a name in .gz or .xz is compressed"
    )
    target: Path | None = Field(
        default=None, description="the real translations, only to compare with"
    )
    validation_source: Path | None = Field(
        default=None, description="source text to measure the teacher on"
    )
    validation_reference: Path | None = Field(
        default=None, description="its references, line by line"
    )
    engine: EngineChoice = Field(
        default="auto", description="auto: ctranslate2 where it can be used, else eager"
    )
    beam: int | None = Field(
        default=None,
        ge=1,
        le=100,
        description="hypotheses kept while searching; left out: 4, for causal models 1",
    )
    length_penalty: float = Field(
        default=1.0,
        ge=0,
        le=10,
        description="hypotheses are ranked by log-probability / length ** this",
    )
    max_tokens: int = Field(
        default=128, ge=1, description="causal: most tokens written after a prompt"
    )
    temperature: float = Field(
        default=0.0, ge=0, le=100, description="causal: above 0 tokens are drawn by chance"
    )
    seed: int = Field(default=0, ge=0, description="causal: of the draws")
    chat: bool = Field(
        default=False,
        description="causal: each prompt is a user's turn in the model's chat template",
    )
    precision: Literal["float32", "bfloat16"] = Field(
        default="float32",
        description="causal: of the weights while it writes; training text may be less exact",
    )
    batch_size: int = Field(default=64, ge=1, description="sentences decoded together, at most")
    chunk: int = Field(
        default=2000, ge=1, description="lines of a part, which is the work a crash can lose"
    )
    overwrite: bool = Field(default=False, description="replace an output that is already there")

    @model_validator(mode="after")
    def _consistent(self) -> DistillConfig:
        if (self.validation_source is None) != (self.validation_reference is None):
            raise ValueError("give `validation_source` and `validation_reference`, or neither")
        return self

    def for_model(self, causal: bool) -> DistillConfig:
        """The same with the beam that suits the model. Raises `UsageError` for what does not apply
        to it.
        """
        fields = type(self).model_fields
        beside = _TRANSLATION if causal else _CAUSAL
        given = [name for name in beside if getattr(self, name) != fields[name].default]
        if given:
            kind = (
                "a causal model, which continues prompts" if causal else "a model that translates"
            )
            raise UsageError(f"{given[0]} was given, and {self.model} is {kind}: leave it out")
        if causal and (self.beam or 1) > 1:
            raise UsageError(
                f"beam {self.beam} was given; a causal model's own text is greedy or drawn: leave it out"
            )
        return self.model_copy(update={"beam": self.beam or (1 if causal else 4)})


_TRANSLATION = ("target", "validation_source", "validation_reference", "length_penalty")
_CAUSAL = ("max_tokens", "temperature", "seed", "chat", "precision")
"""What applies to one kind of model only."""
