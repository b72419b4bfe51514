"""The verb `answer`."""

from __future__ import annotations

import logging
from typing import Annotated, Literal

import typer
from pydantic import BaseModel, ConfigDict, Field

from multistride.cli.console import reading, refuse_shared_files, writing
from multistride.cli.fields import Fields
from multistride.cli.options import (
    Lines,
    Machine,
    NeededModelOption,
    group_size_or_auto,
    note_untrained,
)
from multistride.decode.options import DECODING, DecodeOptions
from multistride.errors import DataError

logger = logging.getLogger(__name__)


class Passages(BaseModel):
    """Options for answering a question from its passage or by its choices."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    free: bool = Field(
        False,
        description="Allow any text as an answer, not only a span of the passage.",
        json_schema_extra=DECODING,
    )
    window: int | None = Field(
        None,
        description="Cut a long passage into windows of this many words (default: what the model "
        "can read).",
        json_schema_extra={"panel": "Input"},
    )
    windows: int = Field(
        3,
        description="Number of windows to read, picked by BM25 (extra [tasks]).",
        json_schema_extra={"panel": "Input"},
    )
    choose: Literal["average", "total"] = Field(
        "average",
        description="Rank choices by log-probability per token (average) or in total.",
        json_schema_extra=DECODING,
    )


def answer(
    *,
    model: NeededModelOption,
    lines: Annotated[Lines, Fields(only=("source", "output", "as_json"))],
    passages: Annotated[Passages, Fields()],
    group_size: Annotated[
        str,
        typer.Option(
            metavar="<int>", help="Tokens written per step (K).", rich_help_panel="Decoding"
        ),
    ] = "1",
    decoding: Annotated[
        DecodeOptions,
        Fields(
            only=("mode", "drafts", "beam", "max_length", "batch_size"), defaults={"max_length": 32}
        ),
    ],
    machine: Annotated[Machine, Fields()],
) -> None:
    """Answer questions about passages, or choose one of several answers.

    Each line of stdin is a JSON object with a "question", and a "passage" or "choices" (a list of
    texts) or both. One line per question, in order (--json: with its score, where it stands, how
    probable each choice is). A question without an answer becomes an empty line; stderr names it,
    and the exit code is 4.

    Example: echo '{"question": "Who ran?", "passage": "Two dogs ran."}' | multistride answer
    --model RUN/best
    """
    from multistride.config import validate
    from multistride.tasks.answerer import AnswerSettings, answering
    from multistride.tasks.streams import write_answers
    from multistride.tasks.task import read_records, solved

    refuse_shared_files([lines.source], [lines.output])
    tree = decoding.model_dump(include={"mode", "drafts", "beam", "batch_size"})
    tree |= {"group_size": group_size_or_auto(group_size), "max_tokens": decoding.max_length}
    settings = validate(AnswerSettings, tree | passages.model_dump(), "answer")
    opened = machine.load(model)
    note_untrained(settings.group_size, opened)
    with reading(lines.source) as texts, writing(lines.output) as output:
        answers = solved(answering(opened, settings), read_records(texts))
        failed = write_answers(answers, output, lines.as_json, logger.info)
    if failed:
        raise DataError(
            f"{failed} of the questions have no answer (named above); their lines are empty"
        )
