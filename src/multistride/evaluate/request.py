"""Options of `multistride evaluate`, each declared once. Imports nothing slow."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import ConfigDict, Field
from pydantic.config import JsonDict

from multistride.errors import UsageError
from multistride.settings import Settings

_INPUT: JsonDict = {"panel": "Input"}
_OUTPUT: JsonDict = {"panel": "Output"}
_MEASURING: JsonDict = {"panel": "Measuring"}

Kind = Literal["translation", "phonemes", "generation"]

WITH_TEACHER = ("generation",)
"""Tasks whose answers are compared with those of a teacher."""


_HOMES = {
    "chat": "it is for --kind generation",
    "reference": "its records hold what is right",
    "kind": "it is for files of texts",
    "tokenize": "it is for --kind translation and phonemes",
}
"""Where an option belongs that is refused elsewhere."""


class Files(Settings):
    """The files that are measured on. Frozen; unknown keys are errors."""

    source: Path = Field(description="texts, one a line")
    reference: Path | None = Field(None, description="what is right, line by line")
    limit: int | None = Field(None, ge=1, description="use the first lines only")
    examples: int = Field(3, ge=0, description="worked examples kept in the result")
    sentences: bool = Field(False, description="translate every sentence of a line alone")


class EvaluationRequest(Settings):
    """The task, its files and the amounts of a measurement. Frozen; unknown keys are errors."""

    model_config = ConfigDict(defer_build=True)

    source: Path = Field(
        description="Source texts or prompts, one a line; with --task records, one JSON object a "
        "line.",
        json_schema_extra=_INPUT,
    )
    reference: Path | None = Field(
        None,
        description="Reference texts, line by line; optional with --kind generation.",
        json_schema_extra=_INPUT,
    )
    limit: int | None = Field(
        None, ge=1, description="Use this many lines from the top only.", json_schema_extra=_INPUT
    )
    sentences: bool = Field(
        False,
        description="Translate every sentence of a line alone and join the translations, as "
        "`translate --sentences` does; for --kind and --task translation.",
        json_schema_extra=_INPUT,
    )
    kind: Kind = Field(
        "translation",
        description="What to measure: translation or phonemes (of an encoder-decoder model), or "
        "generation (of a causal model).",
        json_schema_extra=_MEASURING,
    )
    task: str | None = Field(
        None,
        description="Measure a task over records instead: classification, translation, answering, "
        "answering-free, generation, or one of your own as module:function.",
        json_schema_extra=_MEASURING,
    )
    teacher: Path | None = Field(
        None,
        description="--task generation: the autoregressive model to compare with, at K=1.",
        json_schema_extra=_MEASURING,
    )
    chat: bool = Field(
        False,
        description="--kind generation: treat each prompt as a user's turn in the model's chat "
        "template.",
        json_schema_extra=_MEASURING,
    )
    tokenize: str = Field(
        "13a",
        description="Tokenizer of sacreBLEU: 13a, zh, char, none and others.",
        json_schema_extra=_MEASURING,
    )
    latency_sentences: int = Field(
        100,
        ge=1,
        description="Number of inputs that are timed one at a time.",
        json_schema_extra=_MEASURING,
    )
    name: str | None = Field(
        None,
        description="Title of the result (default: the name of the model or its run).",
        json_schema_extra=_OUTPUT,
    )
    examples: int = Field(
        3, ge=0, description="Worked examples kept in the result.", json_schema_extra=_OUTPUT
    )

    @property
    def files(self) -> Files:
        """Return the files that are measured on."""
        names = {"source", "reference", "limit", "examples", "sentences"}
        return Files(**self.model_dump(include=names))

    def check(self) -> None:
        """Raise `UsageError` for an option that what is measured has no use for.

        Given at its default value it is refused as well: nobody would follow it.
        """
        if "teacher" in self.model_fields_set and self.task not in WITH_TEACHER:
            way_out = "leave it out, or name the task" if self.task is None else "leave it out"
            raise UsageError(
                f"--teacher was given, which is for --task {' or '.join(WITH_TEACHER)}: {way_out}"
            )
        if self.sentences and (self.task or self.kind) != "translation":
            what = f"--task {self.task}" if self.task else f"--kind {self.kind}"
            raise UsageError(
                f"--sentences was given, which is for translation, and {what} is measured: leave "
                "it out"
            )
        refused: tuple[str, ...]
        if self.task is not None:
            refused, what = ("reference", "kind", "chat", "tokenize"), "--task"
        elif self.kind == "generation":
            refused, what = ("tokenize",), "--kind generation"
        else:
            refused, what = ("chat",), f"--kind {self.kind}"
        for name in refused:
            if name in self.model_fields_set:
                raise UsageError(f"--{name} is not for {what} ({_HOMES[name]}): leave it out")
        if self.task is None and self.kind != "generation" and self.reference is None:
            raise UsageError(
                "--reference is missing: give the reference translations, line by line"
            )
