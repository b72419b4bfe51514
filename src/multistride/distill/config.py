"""What `multistride distill` is asked to do."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

EngineChoice = Literal["auto", "ctranslate2", "eager"]


class DistillConfig(BaseModel):
    """One corpus, one teacher, one output. Frozen; unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: Path = Field(description="model directory of the teacher")
    source: Path = Field(description="source text, one a line (.gz and .xz too)")
    output: Path = Field(description="file to write, line n for source line n; a name in .gz or .xz is compressed")
    target: Path | None = Field(default=None, description="the real translations, only to compare with")
    validation_source: Path | None = Field(default=None, description="source text to measure the teacher on")
    validation_reference: Path | None = Field(default=None, description="its references, line by line")
    engine: EngineChoice = Field(default="auto", description="auto: ctranslate2 where it can be used, else eager")
    beam: int = Field(default=4, ge=1, le=100, description="hypotheses kept while searching; 1 is greedy")
    length_penalty: float = Field(
        default=1.0, ge=0, le=10, description="hypotheses are ranked by log-probability / length ** this"
    )
    batch_size: int = Field(default=64, ge=1, description="sentences decoded together, at most")
    chunk: int = Field(default=2000, ge=1, description="lines of a part, which is the work a crash can lose")
    overwrite: bool = Field(default=False, description="replace an output that is already there")

    @model_validator(mode="after")
    def _consistent(self) -> DistillConfig:
        if (self.validation_source is None) != (self.validation_reference is None):
            raise ValueError("give `validation_source` and `validation_reference`, or neither")
        return self
