"""Settings of `multistride distill`."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import ConfigDict, Field, model_validator
from pydantic.config import JsonDict

from multistride.errors import UsageError
from multistride.settings import Settings

EngineChoice = Literal["auto", "ctranslate2", "eager"]

INPUT: JsonDict = {"panel": "Input"}
DECODING: JsonDict = {"panel": "Decoding"}
OUTPUT: JsonDict = {"panel": "Output"}
MACHINE: JsonDict = {"panel": "Machine"}
"""Panels of `multistride distill --help`, whose options are made from the fields below."""


class DistillConfig(Settings):
    """One corpus, one teacher, one output. Frozen; unknown keys are errors."""

    model_config = ConfigDict(defer_build=True)

    model: Path = Field(
        description="The teacher: a model directory such as RUN/best, or a model that ships.",
        json_schema_extra=INPUT,
    )
    source: Path = Field(
        description="Source text (or prompts), one a line (.gz and .xz too).",
        json_schema_extra=INPUT,
    )
    output: Path = Field(
        description="File to write, line n for source line n (.gz and .xz are compressed); "
        "OUTPUT.json says how it was made.",
        json_schema_extra=OUTPUT,
    )
    target: Path | None = Field(
        None,
        description="Translation models: real translations of the source, to compare with.",
        json_schema_extra=INPUT,
    )
    validation_source: Path | None = Field(
        None,
        description="Translation models: measure the teacher on this text ...",
        json_schema_extra=INPUT,
    )
    validation_reference: Path | None = Field(
        None, description="... against these references, line by line.", json_schema_extra=INPUT
    )
    engine: EngineChoice = Field(
        "auto",
        description="ctranslate2 (int8, extra [bench]), eager, or auto: ctranslate2 where it runs.",
        json_schema_extra=MACHINE,
    )
    beam: int | None = Field(
        None,
        ge=1,
        le=100,
        description="Beam size (default: 4; causal models 1, which is greedy).",
        json_schema_extra=DECODING,
    )
    length_penalty: float = Field(
        1.0,
        ge=0,
        le=10,
        description="Translation models: beam search ranks by log-probability / length ** this.",
        json_schema_extra=DECODING,
    )
    max_tokens: int = Field(
        128,
        ge=1,
        description="Causal models: maximum number of tokens after a prompt.",
        json_schema_extra=DECODING,
    )
    temperature: float = Field(
        0.0,
        ge=0,
        le=100,
        description="Causal models: sample at this temperature (0: greedy).",
        json_schema_extra=DECODING,
    )
    seed: int = Field(
        0, ge=0, description="Causal models: random seed of sampling.", json_schema_extra=DECODING
    )
    chat: bool = Field(
        False,
        description="Causal models: treat each line as a user's turn in the chat template.",
        json_schema_extra=INPUT,
    )
    precision: Literal["float32", "bfloat16"] = Field(
        "float32",
        description="Causal models: precision of the weights; bfloat16 where the CPU has it.",
        json_schema_extra=MACHINE,
    )
    batch_size: int = Field(
        64, ge=1, description="Maximum number of texts decoded together.", json_schema_extra=MACHINE
    )
    chunk: int = Field(
        2000,
        ge=1,
        description="Lines of a part: the work that a crash can lose.",
        json_schema_extra=OUTPUT,
    )
    overwrite: bool = Field(
        False, description="Replace an output that exists.", json_schema_extra=OUTPUT
    )

    @model_validator(mode="after")
    def _consistent(self) -> DistillConfig:
        if (self.validation_source is None) != (self.validation_reference is None):
            raise ValueError("give `validation_source` and `validation_reference`, or neither")
        return self

    def for_model(self, causal: bool) -> DistillConfig:
        """Return the settings with the beam of the model. Raises `UsageError` for what does not
        apply.
        """
        beside = _TRANSLATION if causal else _CAUSAL
        given = [name for name in beside if name in self.model_fields_set]
        if given:
            kind = (
                "a causal model, which continues prompts" if causal else "a model that translates"
            )
            raise UsageError(f"{given[0]} was given, and {self.model} is {kind}: leave it out")
        if causal and (self.beam or 1) > 1:
            raise UsageError(
                f"beam {self.beam} was given; a causal model's own text is greedy or drawn: leave "
                "it out"
            )
        beam = self.beam or (1 if causal else 4)
        if "length_penalty" in self.model_fields_set and beam == 1:
            raise UsageError(
                f"length_penalty {self.length_penalty} was given, which ranks the texts of a beam, "
                "and the beam is 1: leave it out, or choose a larger beam"
            )
        if "seed" in self.model_fields_set and not self.temperature:
            raise UsageError(
                f"seed {self.seed} was given, which is for sampling, and the text is greedy: leave "
                "it out, or add a temperature"
            )
        return self.model_copy(update={"beam": beam})


_TRANSLATION = ("target", "validation_source", "validation_reference", "length_penalty")
_CAUSAL = ("max_tokens", "temperature", "seed", "chat", "precision")
"""What applies to one kind of model only."""
