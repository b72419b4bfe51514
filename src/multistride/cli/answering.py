"""The verb `answer`."""

from __future__ import annotations

from typing import Annotated

from multistride.cli.console import reading, refuse_shared_files, writing
from multistride.cli.fields import Fields
from multistride.cli.options import (
    Lines,
    Machine,
    NeededModelOption,
    note_untrained,
)
from multistride.decode.options import DecodeOptions
from multistride.errors import DataError
from multistride.tasks.answering.settings import AnswerSettings


def answer(
    *,
    model: NeededModelOption,
    lines: Annotated[Lines, Fields(only=("source", "output", "as_json"))],
    passages: Annotated[AnswerSettings, Fields()],
    decoding: Annotated[
        DecodeOptions,
        Fields(
            only=("group_size", "mode", "drafts", "beam", "max_length", "batch_size"),
            defaults={"max_length": 32},
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
    from multistride.tasks.answering.answerer import answering
    from multistride.tasks.record import read_records, solved
    from multistride.tasks.streams import write_answers

    refuse_shared_files([lines.source], [lines.output])
    opened = machine.load(model)
    task = answering(opened, passages)
    way = task.settle(decoding)
    note_untrained(way.group_size, opened)
    with reading(lines.source) as texts, writing(lines.output) as output:
        answers = solved(task, read_records(texts), way)
        failed = write_answers(answers, output, lines.as_json)
    if failed:
        raise DataError(
            f"{failed} of the questions have no answer (named above); their lines are empty"
        )
