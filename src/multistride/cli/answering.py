"""The verb `answer`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from multistride.cli.console import number, reading, say, writing
from multistride.cli.options import (
    BatchSizeOption,
    BeamOption,
    DeviceOption,
    DraftsOption,
    EngineOption,
    GroupSizeOption,
    InputOption,
    LinesOption,
    ModeOption,
    OutputOption,
    ThreadsOption,
    note_untrained,
)
from multistride.errors import DataError


def answer(
    model: Annotated[
        Path, typer.Option(help="Directory of a model that answers, for example RUN/best.")
    ],
    group_size: GroupSizeOption = "1",
    mode: ModeOption = "fast",
    drafts: DraftsOption = None,
    beam: BeamOption = 1,
    free: Annotated[
        bool, typer.Option("--free", help="An answer may be any text, not only one of the passage.")
    ] = False,
    window: Annotated[
        int | None,
        typer.Option(
            help="Words of a window of a long passage; left out: what the model can read."
        ),
    ] = None,
    windows: Annotated[int, typer.Option(help="Windows read, picked by BM25 (extra [tasks]).")] = 3,
    choose: Annotated[
        str,
        typer.Option(
            help="Choices are ranked by log-probability per token (average) or in total (total)."
        ),
    ] = "average",
    max_tokens: Annotated[int, typer.Option(help="Most tokens of an answer.")] = 32,
    batch_size: BatchSizeOption = 32,
    source: InputOption = None,
    output: OutputOption = None,
    engine: EngineOption = "eager",
    device: DeviceOption = "auto",
    threads: ThreadsOption = None,
    as_json: LinesOption = False,
) -> None:
    """Answer questions about passages, or by one of several choices.

    A line of stdin is an object with a "question", and a "passage" or "choices" (a list of texts)
    or both; blank ones are skipped. One line per question, in order (--json: with its score, where
    it stands, how probable each choice is). A question without an answer is an empty line; stderr
    names it, and the exit code is 4.

    Example: echo '{"question": "Who ran?", "passage": "Two dogs ran."}' | multistride answer
    --model RUN/best
    """
    size = number(group_size)

    from multistride.config import validate
    from multistride.device import set_threads
    from multistride.generator import load
    from multistride.tasks.answering.answerer import AnswerSettings, answering
    from multistride.tasks.record import read_records, solved
    from multistride.tasks.streams import write_answers

    given = {
        "mode": mode,
        "drafts": drafts,
        "beam": beam,
        "free": free,
        "window": window,
        "windows": windows,
        "choose": choose,
    }
    tree = {**given, "group_size": size, "max_tokens": max_tokens, "batch_size": batch_size}
    settings = validate(AnswerSettings, tree, "answer")
    set_threads(threads)
    opened = load(model, device, engine)
    note_untrained(size, opened)
    with reading(source) as lines, writing(output) as text:
        failed = write_answers(
            solved(answering(opened, settings), read_records(lines)), text, as_json, say
        )
    if failed:
        raise DataError(
            f"{failed} of the questions have no answer (named above); their lines are empty"
        )
