"""The loop of a worker: open, then decode and time one turn after the other until there is no more.

Standard output carries the answers; whatever a library prints there goes to standard error instead.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Sequence
from typing import Protocol, TextIO

from pydantic import BaseModel

from multistride.decode.options import DecodeOptions
from multistride.errors import UserError
from multistride.evaluate.bench.workers.memory import forget_peak, peak_mb, present_mb
from multistride.evaluate.bench.workers.messages import (
    Answer,
    Failure,
    Ready,
    Sentence,
    Setup,
    Turn,
)


class Contender(Protocol):
    """Something that decodes a batch greedily."""

    engine: str
    precision: str

    def write(self, sources: Sequence[Sequence[int]], options: DecodeOptions) -> list[Sentence]:
        """Decode one batch, as a whole; the n-th result belongs to the n-th source."""


def serve(open_contender: Callable[[Setup], Contender]) -> None:
    """Answer requests from stdin on stdout; a user's error is an answer too."""
    commands, answers = sys.stdin, _answers()
    libraries = present_mb()
    try:
        setup = Setup.model_validate_json(commands.readline())
        contender = open_contender(setup)
        _say(
            answers,
            Ready(engine=contender.engine, precision=contender.precision, libraries_mb=libraries),
        )
        for line in commands:
            _say(answers, take_turn(contender, setup, Turn.model_validate_json(line)))
    except UserError as error:
        _say(answers, Failure(message=str(error), exit_code=error.exit_code))


def take_turn(contender: Contender, setup: Setup, turn: Turn) -> Answer:
    """Decode the batches of a turn; the clock runs from tokens to tokens."""
    forget_peak()
    milliseconds: list[float] = []
    sentences: list[Sentence] = []
    for rows in turn.batches:
        sources = [setup.sources[row] for row in rows]
        began = time.perf_counter()
        written = contender.write(sources, turn.options)
        milliseconds.append(1000 * (time.perf_counter() - began))
        sentences.extend(written)
    return Answer(milliseconds=tuple(milliseconds), sentences=tuple(sentences), peak_mb=peak_mb())


def written_at_one(tokens: list[int], limit: int, end_token: int) -> Sentence:
    """Return a sentence that was written one token a pass, cut to its own limit.

    Such programs have one limit a batch, that of its longest source.
    """
    kept = tokens[:limit]
    ended = kept[-1:] == [end_token]
    return Sentence(tokens=tuple(kept[:-1] if ended else kept), written=len(kept), steps=len(kept))


def _answers() -> TextIO:
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return answers


def _say(answers: TextIO, message: BaseModel) -> None:
    answers.write(message.model_dump_json() + "\n")
    answers.flush()
