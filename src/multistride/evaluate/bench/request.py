"""Options of `multistride bench`, each declared once. Imports nothing slow."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import ConfigDict, Field
from pydantic.config import JsonDict

from multistride.report.result import OWN
from multistride.settings import Settings

Size = Annotated[int, Field(ge=1)]

_INPUT: JsonDict = {"panel": "Input"}
_MEASURING: JsonDict = {"panel": "Measuring"}
_MACHINE: JsonDict = {"panel": "Machine"}


class BenchOptions(Settings):
    """The texts, contenders and amounts of a benchmark. Frozen; unknown keys are errors."""

    model_config = ConfigDict(defer_build=True)

    source: Path = Field(description="Source texts, one a line.", json_schema_extra=_INPUT)
    reference: Path | None = Field(
        None,
        description="Reference translations, to show BLEU beside the speed.",
        json_schema_extra=_INPUT,
    )
    batch_sizes: tuple[Size, ...] = Field(
        (1, 8, 32),
        min_length=1,
        description="Sentences decoded together.",
        json_schema_extra={**_MACHINE, "option": "--batch-size"},
    )
    engines: tuple[str, ...] = Field(
        ("auto",),
        min_length=1,
        description="Our engines: eager, int8, gpu.",
        json_schema_extra={**_MACHINE, "option": "--engine"},
    )
    device: str = Field(
        "cpu",
        description="Device of our engines: cpu, cuda or auto.",
        json_schema_extra=_MACHINE,
    )
    threads: int = Field(
        1, description="CPU threads of every contender.", json_schema_extra=_MACHINE
    )
    against: tuple[str, ...] = Field(
        (OWN,),
        description="Baselines: own-k1, ctranslate2-int8, ctranslate2-float32, "
        "transformers-float32.",
        json_schema_extra=_MEASURING,
    )
    against_model: Path | None = Field(
        None,
        description="Another model as a baseline, at K=1 on the same engines.",
        json_schema_extra=_MEASURING,
    )
    sentences: int = Field(
        100,
        ge=1,
        description="Number of lines to time, taken evenly from the whole file.",
        json_schema_extra=_MEASURING,
    )
    rounds: int = Field(
        3,
        ge=1,
        description="How often each contender decodes each sentence; the median counts.",
        json_schema_extra=_MEASURING,
    )
    tokenize: str = Field(
        "13a",
        description="Tokenizer of sacreBLEU: 13a, zh, char, none and others.",
        json_schema_extra=_MEASURING,
    )
    require: tuple[str, ...] = Field(
        (),
        description="Exit with 5 unless a ratio is reached, for example "
        "k=4,batch=1,ctranslate2-int8>=5. Repeatable.",
        json_schema_extra=_MEASURING,
    )
