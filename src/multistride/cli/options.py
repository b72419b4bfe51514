"""Options that several verbs share, each declared once.

What belongs together is a model, whose fields become options (`fields.py`); what stands alone is an
annotation.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from pydantic import BaseModel, ConfigDict, Field, field_validator

from multistride.cli.fields import option_of
from multistride.cli.help import DIRECTORY
from multistride.errors import UsageError
from multistride.shipped import existing

logger = logging.getLogger(__name__)

EngineName = Literal["eager", "int8", "int8-rows", "int4", "gpu", "auto"]
LineFormat = Literal["text", "groups", "json", "stream"]
"""A result as text, as text with bars between steps, as a JSON object, or group by group."""


class Machine(BaseModel):
    """The engine, device and threads that a model runs with."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    engine: EngineName = Field(
        "auto",
        description="Inference engine: eager (PyTorch, float32: the reference), int8 (CPU), "
        "int8-rows (CPU: a scale for each row of converted causal models), int4 (CPU, 4-bit "
        "weights), gpu (CUDA), or auto, the fastest that runs here. `multistride doctor` lists "
        "them.",
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


class Cluster(BaseModel):
    """The workers that share the work; without an address this process does it alone."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    ray: str | None = Field(
        None,
        description="Share the work among Ray workers (extra [ray]). Without a value or with "
        "local: processes on this machine. auto or HOST:PORT: the Ray cluster that this machine "
        "belongs to.",
        json_schema_extra={"panel": "Machine"},
    )
    workers: int | None = Field(
        None,
        ge=1,
        description="With --ray: number of workers (default: one per --threads cores, or per GPU).",
        json_schema_extra={"panel": "Machine"},
    )

    def refuse(self, option: str) -> None:
        """Raise `UsageError` if --ray was given with an option that one process alone can do."""
        if self.ray is not None:
            raise UsageError(f"{option} is for one process: leave --ray or {option} out")


class Units(BaseModel):
    """Units of translation: a line, its sentences, or several lines of a document."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    sentences: bool = Field(
        False,
        description="Translate every sentence of a line alone and join the translations, for lines "
        "of several sentences and a model that was trained on single ones.",
        json_schema_extra={"panel": "Input"},
    )
    window: int | None = Field(
        None,
        ge=1,
        description="Translate this many consecutive lines of a document together, so that they "
        "see each other. Blank lines separate documents; lines too long for the model are cut.",
        json_schema_extra={"panel": "Input"},
    )

    def checked(self, lines: Lines, cluster: Cluster) -> bool:
        """Return whether lines are translated as they are.

        Raises `UsageError` for what does not go with sentences or windows.
        """
        given = [
            name for name, on in (("--sentences", self.sentences), ("--window", self.window)) if on
        ]
        if not given:
            return True
        if len(given) > 1:
            raise UsageError(f"{' and '.join(given)} were given: leave one of them out")
        [name] = given
        if lines.form != "text" or lines.trace:
            raise UsageError(
                f"{name} writes plain lines: leave --show-groups, --stream, --json and --trace out"
            )
        cluster.refuse(name)
        return False


class Lines(BaseModel):
    """The source of lines, and the destination and format of their results."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

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
        description="Write this file instead of stdout; it appears when it is complete, in place "
        "of one that was there.",
        json_schema_extra={"panel": "Output"},
    )
    show_groups: bool = Field(
        False,
        description="Write a bar between the groups of tokens, one group per step.",
        json_schema_extra={"panel": "Output"},
    )
    stream: bool = Field(
        False,
        description="Write each group as soon as it is decoded, one sentence after the other.",
        json_schema_extra={"panel": "Output"},
    )
    as_json: bool = Field(
        False,
        description="Write one JSON object per line, with scores and details, instead of text.",
        json_schema_extra={"panel": "Output", "option": "--json"},
    )
    trace: Path | None = Field(
        None,
        description="Also write one JSON line per decoding step to this file.",
        json_schema_extra={"panel": "Output"},
    )

    @field_validator("source", "output")
    @classmethod
    def _standard(cls, path: Path | None) -> Path | None:
        """Return None, which is stdin or stdout, for the name that means them to most programs."""
        return None if path == Path("-") else path

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


def model_directory(value: Any) -> Path | None:
    """Return the directory that `--model` names: a path, or the name of a model that ships."""
    return None if value is None else existing(value)


ModelOption = Annotated[
    Path | None,
    typer.Option(
        "--model",
        metavar="<name or path>",
        callback=model_directory,
        help="A model that ships (see `multistride models`) or a model directory such as RUN/best. "
        "Default: English to German.",
        rich_help_panel="Input",
    ),
]
NeededModelOption = Annotated[
    Path,
    typer.Option(
        "--model",
        metavar="<name or path>",
        callback=model_directory,
        help="A model that ships (see `multistride models`) or a model directory such as RUN/best.",
        rich_help_panel="Input",
    ),
]
JsonOption = Annotated[
    bool,
    typer.Option("--json", help="Print one JSON object on stdout.", rich_help_panel="Output"),
]
GroupSizeOption = Annotated[
    str,
    typer.Option(
        metavar="<N|auto>",
        help="Tokens written per step (K). 1 is autoregressive; auto the fastest on this machine.",
        rich_help_panel="Decoding",
    ),
]
ThreadsOption = Annotated[int | None, option_of(Machine, "threads")]
LinesOption = Annotated[
    bool,
    typer.Option(
        "--json", help="Write one JSON object per line instead of text.", rich_help_panel="Output"
    ),
]
SourceOption = Annotated[
    Path,
    typer.Option(
        "--source",
        help="Source text (or prompts), one a line (.gz and .xz too).",
        rich_help_panel="Input",
    ),
]
ChatOption = Annotated[
    bool,
    typer.Option(
        "--chat",
        help="Causal models: treat each prompt as a user's turn in the model's chat template.",
        rich_help_panel="Input",
    ),
]
DirectoryOption = Annotated[
    Path,
    typer.Option(
        "--output", metavar=DIRECTORY, help="Directory to write.", rich_help_panel="Output"
    ),
]


def group_size_or_auto(text: str) -> int | Literal["auto"]:
    """Return the value of --group-size. Raises `UsageError` with what was given."""
    try:
        return "auto" if text == "auto" else int(text)
    except ValueError as error:
        raise UsageError(
            f"--group-size takes a whole number such as 4, or auto; {text!r} was given"
        ) from error


def note_untrained(group_size: int, trained: Sequence[int], copied: bool = False) -> None:
    """Log a note if the model can write groups of this size but was not trained for them.

    `copied` drafts need no training.
    """
    if 1 <= group_size <= max(trained) and group_size not in trained and not copied:
        logger.info(
            f"note: this checkpoint was trained for K in {', '.join(map(str, trained))}, "
            f"not for {group_size}"
        )
