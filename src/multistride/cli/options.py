"""Options that several verbs share, each declared once.

What belongs together is a model, whose fields become options (`fields.py`); what stands alone is an
annotation.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from pydantic import BaseModel, ConfigDict, Field

from multistride.cli.console import say
from multistride.errors import DataError, UsageError
from multistride.shipped import find, names

if TYPE_CHECKING:
    from multistride.cli.lines import LineFormat
    from multistride.translator import Translator

EngineName = Literal["eager", "int8", "gpu", "auto"]


class Machine(BaseModel):
    """Where and with what a model computes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    engine: EngineName = Field(
        "eager",
        description="Inference engine: eager (PyTorch, float32), int8 (CPU, extra [int8]), gpu "
        "(CUDA), or auto, the fastest that runs here. `multistride doctor` lists them.",
        json_schema_extra={"panel": "Machine"},
    )
    device: str = Field(
        "auto",
        description="Device: cpu, cuda, cuda:N, or auto (the GPU if there is one).",
        json_schema_extra={"panel": "Machine"},
    )
    threads: int | None = Field(
        None,
        description="Number of CPU threads (default: PyTorch's choice).",
        json_schema_extra={"panel": "Machine"},
    )


class Lines(BaseModel):
    """Where lines come from and in which form their results are written."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: Path | None = Field(
        None,
        description="Read this file (.gz and .xz too) instead of stdin.",
        json_schema_extra={"panel": "Input", "option": "--input"},
    )
    buffer: int | None = Field(
        None,
        ge=1,
        description="Number of lines read before the first result is written (default: 1024; from "
        "a terminal 1). Use 1 to get an answer to every line at once.",
        json_schema_extra={"panel": "Input"},
    )
    output: Path | None = Field(
        None,
        description="Write this file instead of stdout; it appears when it is complete.",
        json_schema_extra={"panel": "Output"},
    )
    show_groups: bool = Field(
        False,
        description="Write text with a bar between the groups of tokens that one step wrote.",
        json_schema_extra={"panel": "Output"},
    )
    stream: bool = Field(
        False,
        description="Write each group as soon as it is decoded, one sentence after the other.",
        json_schema_extra={"panel": "Output"},
    )
    as_json: bool = Field(
        False,
        description="Write one JSON object per line: text, tokens, scores, groups.",
        json_schema_extra={"panel": "Output", "option": "--json"},
    )
    trace: Path | None = Field(
        None,
        description="Also write one JSON line per decoding step to this file.",
        json_schema_extra={"panel": "Output"},
    )

    @property
    def form(self) -> LineFormat:
        """Return the one format that was chosen. Raises `UsageError` for more than one."""
        formats = {
            "--show-groups": self.show_groups,
            "--stream": self.stream,
            "--json": self.as_json,
        }
        if sum(formats.values()) > 1:
            given = " and ".join(name for name, chosen in formats.items() if chosen)
            raise UsageError(
                f"{given} were given, which are different formats: give one (--json has the groups)"
            )
        if self.as_json:
            return "json"
        return "groups" if self.show_groups else "stream" if self.stream else "text"


def _directory(value: Any) -> Path | None:
    """Return the directory that `--model` names: itself, or the model of that name we ship."""
    if value is None or Path(value).exists():
        return value if value is None else Path(value)
    if (shipped := find(str(value))) is not None:
        return shipped
    raise DataError(
        f"{value} is no model directory, and no model of that name ships "
        f"({', '.join(names())} does): check the path"
    )


ModelOption = Annotated[
    Path | None,
    typer.Option(
        "--model",
        metavar="<name or path>",
        callback=_directory,
        help="A model that ships (see `multistride models`) or a model directory such as RUN/best. "
        "Default: English to German.",
        rich_help_panel="Input",
    ),
]
JsonOption = Annotated[
    bool,
    typer.Option("--json", help="Print one JSON object on stdout.", rich_help_panel="Output"),
]
GroupSizeOption = Annotated[
    str, typer.Option(help="Tokens per step (K); 1 is autoregressive, auto the fastest.")
]
GroupSizesOption = Annotated[
    str, typer.Option("--group-size", help="Tokens per step (K), comma-separated.")
]
DeviceOption = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")]
EngineOption = Annotated[
    str,
    typer.Option(
        help="What computes: eager (PyTorch, float32), int8 (CPU, extra [int8]), gpu (CUDA), auto."
    ),
]
ThreadsOption = Annotated[int | None, typer.Option(help="CPU threads; left out: PyTorch's choice.")]
BeamOption = Annotated[
    int, typer.Option(min=1, help="Hypotheses kept while searching; 1 is greedy.")
]
ModeOption = Annotated[
    str,
    typer.Option(
        help="fast: all tokens of a group are kept; adaptive: the sure ones; exact: the text of K=1."
    ),
]
ThresholdOption = Annotated[
    float | None,
    typer.Option(help="adaptive: keep tokens while they are together this probable (0.5)."),
]
ReferenceOption = Annotated[
    Path | None, typer.Option(help="Reference text, line by line; generation can do without.")
]
MinLengthOption = Annotated[int, typer.Option(help="No end before so many tokens.")]
MaxLengthOption = Annotated[
    int | None,
    typer.Option(help="Most tokens, the end included; left out: it follows from the source."),
]
PrefixOption = Annotated[str, typer.Option(help="Text that every translation begins with.")]
BanOption = Annotated[
    list[str] | None, typer.Option("--ban", help="A text that is never written; may be repeated.")
]
BanTokenOption = Annotated[
    list[int] | None,
    typer.Option("--ban-token", help="The id of a token that is never written; may be repeated."),
]
NoRepeatOption = Annotated[
    int,
    typer.Option(
        "--no-repeat-ngram", help="No so many tokens in a row are written twice; 0: no such rule."
    ),
]
StopOption = Annotated[
    list[str] | None,
    typer.Option("--stop", help="A text that ends a translation and is cut off; may be repeated."),
]
PolicyOption = Annotated[
    str | None,
    typer.Option(
        help="How many tokens a step proposes: fixed, confidence, cost-model, phase, autoregressive."
    ),
]
LayoutOption = Annotated[
    str | None,
    typer.Option(
        help="sat: as in the paper; lookahead: masks behind known tokens; left out: what suits."
    ),
]
KindOption = Annotated[
    str,
    typer.Option(
        help="translation or phonemes: which measures the table shows; generation: causal models."
    ),
]
TaskOption = Annotated[
    str | None,
    typer.Option(help="A task by name; --source then has its records, one JSON object a line."),
]
TeacherOption = Annotated[
    Path | None,
    typer.Option(help="--task generation: the autoregressive model to compare with, at K=1."),
]
DraftsOption = Annotated[
    str | None,
    typer.Option(help="exact: drafted by masks, by text that stood there before, or by both."),
]
TemperatureOption = Annotated[float, typer.Option(help="Above 0: draw tokens by chance.")]
TopKOption = Annotated[int, typer.Option(help="Draw only from so many tokens; 0: all.")]
TopPOption = Annotated[float, typer.Option(help="Draw only from the likely tokens with this mass.")]
MinPOption = Annotated[float, typer.Option(help="Draw only tokens this likely beside the best.")]
SeedOption = Annotated[int, typer.Option(help="The same source and seed give the same text.")]
BatchSizeOption = Annotated[int, typer.Option(min=1, help="Sentences decoded together.")]
WindowOption = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Sentences of a document translated together; lines too long are cut. Blank lines part.",
    ),
]
BufferOption = Annotated[int, typer.Option(min=1, help="Lines read before the first is written.")]
InputOption = Annotated[
    Path | None, typer.Option("--input", help="Read this file instead of stdin.")
]
OutputOption = Annotated[
    Path | None, typer.Option(help="Write this file (whole or not at all) instead of stdout.")
]
TraceOption = Annotated[
    Path | None, typer.Option(help="Write one JSON line per step to this file.")
]
ShowGroupsOption = Annotated[
    bool, typer.Option("--show-groups", help="Text with a bar between the steps that wrote it.")
]
StreamOption = Annotated[
    bool, typer.Option("--stream", help="Write each group at once, one sentence after the other.")
]
LinesOption = Annotated[
    bool, typer.Option("--json", help="One JSON object per line instead of text.")
]


def refuse_search(beam: int, tokenize: str, policy: str | None, layout: str | None) -> None:
    """Raise `UsageError` for ways of decoding that measuring a causal model has no use for."""
    if beam > 1 or tokenize != "13a" or policy or layout:
        raise UsageError(
            "--beam, --tokenize, --policy and --layout are not for --kind generation: leave them out"
        )


def line_format(show_groups: bool, stream: bool, as_json: bool) -> LineFormat:
    """Return the one format that was asked for. Raises `UsageError` for more than one."""
    return Lines(show_groups=show_groups, stream=stream, as_json=as_json).form


def note_untrained(group_size: int, translator: Translator, copied: bool = False) -> None:
    """Log a note if the model was not trained for this group size (`copied` drafts need none)."""
    trained = translator.config.group_sizes
    if group_size not in trained and not copied:
        say(
            f"note: this checkpoint was trained for K in {', '.join(map(str, trained))}, "
            f"not for {group_size}"
        )
