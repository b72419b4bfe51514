"""What answers questions: a model, asked in its own words, over windows of a passage or over
choices.

**Windows.** A passage that the model cannot read at once is cut; BM25 picks the windows that are worth reading, the
model answers from each, and the most probable answer wins. Its tokens count together, and so they do in beam search:
in a span the first tokens say where it begins and the others follow almost for sure, so an average would favour long
ones.

**Choices.** Each is scored as the text after the question: on average per token by default, since choices differ in
what they name and a name of many tokens is improbable whatever it names. Both numbers are reported.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from multistride.decode.constraints import Constraints
from multistride.decode.options import DecodeOptions, Drafts, Mode
from multistride.decode.spans import spans
from multistride.generator import Generator, load
from multistride.tasks.answering import (
    CHAT,
    ENCODER,
    PROMPT,
    AnsweringTask,
    Found,
    Question,
    Wording,
    plain,
)
from multistride.tasks.passages import retrieved, windows, word_count
from multistride.tasks.task import Example, Opened, RecordError, TaskRequest
from multistride.translator import Translation, Translator

Choose = Literal["average", "total"]


class AnswerSettings(BaseModel):
    """How to answer. Frozen; unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    group_size: int = Field(1, ge=1, description="tokens per step (K); 1 is autoregressive")
    mode: Mode = Field("fast", description="fast, adaptive or exact")
    drafts: Drafts | None = Field(
        None, description="exact: drafted by masks, text that stood there before, or both"
    )
    beam: int = Field(1, ge=1, description="hypotheses kept while searching; 1 is greedy")
    free: bool = Field(
        False, description="whether an answer may be any text, and not only a span of the passage"
    )
    window: int | None = Field(
        None, ge=8, description="words of a window; left out: as many as the model can read"
    )
    windows: int = Field(3, ge=1, description="windows that are read of a passage which has more")
    max_tokens: int = Field(32, ge=1, description="most tokens of an answer, the end included")
    choose: Choose = Field(
        "average", description="choices are ranked by log-probability per token, or in total"
    )
    batch_size: int = Field(32, ge=1, description="windows read together")


@dataclass(frozen=True)
class _Reading:
    """One window that is read for a question: the text the model gets, and what may be copied."""

    question: int
    window: str
    text: str


class Answerer:
    """A model and how it is asked; `solve` answers examples of an `AnsweringTask`."""

    def __init__(self, model: Translator, settings: AnswerSettings) -> None:
        """Raises `UsageError` for settings that the model cannot follow."""
        talking = isinstance(model, Generator) and model.vocabulary.chat_template is not None
        self.model = model.chatting() if isinstance(model, Generator) and talking else model
        self.wording = CHAT if talking else PROMPT if isinstance(model, Generator) else ENCODER
        self.settings = settings
        self._scored_at = (
            1 if settings.mode == "exact" else settings.group_size
        )  # exact mode is K=1's
        self._options, self._constraints = _decoding(self.model, self.wording, settings)
        self._spans = None if settings.free else spans(model.vocabulary, self.wording.opening)

    def solve(self, examples: Sequence[Example]) -> list[Found | RecordError]:
        """The n-th answer, or why there is none, of the n-th question."""
        questions = [example for example in examples if isinstance(example, Question)]
        assert len(questions) == len(examples), "examples are made by an AnsweringTask"
        numbered = dict(enumerate(questions))
        chosen = {place: question for place, question in numbered.items() if question.choices}
        taken = {place: question for place, question in numbered.items() if not question.choices}
        found = self._chosen(chosen) | self._taken(taken)
        return [found[place] for place in numbered]

    def _chosen(self, questions: dict[int, Question]) -> dict[int, Found | RecordError]:
        """The most probable choices, by the place of the question."""
        pairs = [
            (each.source, self.wording.written(text))
            for each in questions.values()
            for text in each.choices
        ]
        scores = iter(self.model.score(pairs, self._scored_at))
        return {
            place: self._best(each, list(islice(scores, len(each.choices))))
            for place, each in questions.items()
        }

    def _best(
        self, question: Question, scores: Sequence[Sequence[float] | None]
    ) -> Found | RecordError:
        """The most probable of the choices, and how probable all of them are: the scores of their
        tokens, or None.
        """
        if any(values is None for values in scores):
            return RecordError(
                question.line, "the question, with a choice, is too long for the model: shorten it"
            )
        totals = [sum(values or ()) for values in scores]
        averages = [
            total / max(1, len(values or ())) for total, values in zip(totals, scores, strict=True)
        ]
        ranked = averages if self.settings.choose == "average" else totals
        best = max(range(len(ranked)), key=lambda place: (ranked[place], -place))
        shares = [math.exp(value - ranked[best]) for value in ranked]
        listed = [
            {"text": text, "average": round(average, 4), "total": round(total, 4)}
            for text, average, total in zip(question.choices, averages, totals, strict=True)
        ]
        facts = {"choice": best, "probability": round(1 / sum(shares), 4), "scores": listed}
        return Found(question.choices[best], facts)

    def _taken(self, questions: dict[int, Question]) -> dict[int, Found | RecordError]:
        """The answers out of passages, by the place of the question."""
        readings: list[_Reading] = []
        found: dict[int, Found | RecordError] = {}
        for place, question in questions.items():
            read = self._readings(place, question)
            if isinstance(read, RecordError):
                found[place] = read
            else:
                readings += read
        best: dict[int, tuple[_Reading, Translation]] = {}
        for reading, written in zip(readings, self._written(readings), strict=True):
            other = best.get(reading.question)
            if other is None or _total(written) > _total(other[1]):
                best[reading.question] = reading, written
        for place, (reading, written) in best.items():
            found[place] = self._found(questions[place], reading, written)
        return found

    def _readings(self, place: int, question: Question) -> list[_Reading] | RecordError:
        """The windows to read: one, if the model can read the whole passage."""
        passage = plain(question.passage or "")
        count = word_count(passage)
        # Signs count as words and may share a token with others; so much more than there is room
        # for cannot fit.
        words = self.settings.window or min(count, 2 * self._room)
        while True:
            texts = [passage] if words >= count else windows(passage, words)
            kept = [
                texts[place] for place in retrieved(question.question, texts, self.settings.windows)
            ]
            asked = [self.wording.asked(question.question, text) for text in kept]
            excess = max(map(len, self.model.encode(asked))) / self._room
            if excess <= 1:
                return [_Reading(place, *both) for both in zip(kept, asked, strict=True)]
            if words <= 8:
                problem = "the question is too long for the model, whatever the passage: shorten it"
                return RecordError(question.line, problem)
            words = max(8, int(words * min(0.9, 1 / excess)))

    @property
    def _room(self) -> int:
        """The most tokens that may be asked."""
        positions = self.model.config.max_positions
        return (
            positions - 1
            if self.model.config.encoder_layers
            else max(1, positions - self.settings.max_tokens)
        )

    def _written(self, readings: Sequence[_Reading]) -> list[Translation]:
        """What the model writes for each window."""
        texts = [reading.text for reading in readings]
        constraints = self._constraints
        if self._spans is not None:
            tokens = self.model.encode(texts)
            copied = {
                tuple(row): reading.window for row, reading in zip(tokens, readings, strict=True)
            }
            rule = self._spans
            constraints = replace(constraints, allowing=lambda source: rule(copied[tuple(source)]))
        return self.model.written(texts, self._options, constraints)

    def _found(self, question: Question, reading: _Reading, written: Translation) -> Found:
        text = self.wording.read(written.text)
        start = plain(question.passage or "").find(text) if text else -1
        facts = {
            "score": round(_total(written), 4),
            "start": start if start >= 0 else None,
            "tokens": len(written.scores),
            "steps": len(written.trace),
            "window": reading.window if reading.window != plain(question.passage or "") else None,
        }
        return Found(text, facts)


def answering(
    model: Translator, settings: AnswerSettings, name: str = "answering"
) -> Opened[Found]:
    """The task with a model behind it. Raises `UsageError` for settings that the model cannot
    follow.
    """
    answerer = Answerer(model, settings)
    return Opened(AnsweringTask(answerer.wording, name), answerer.solve)


def open_answering(request: TaskRequest) -> Opened[Found]:
    """Answers are spans of the passage. Raises as `generator.load` and `answering` do."""
    return _opened(request, free=False)


def open_free_answering(request: TaskRequest) -> Opened[Found]:
    """Answers are what the model writes. Raises as `generator.load` and `answering` do."""
    return _opened(request, free=True)


def _opened(request: TaskRequest, free: bool) -> Opened[Found]:
    given = request.model_dump(include={"group_size", "mode", "drafts", "beam", "batch_size"})
    model = load(request.model, request.device, request.engine)
    return answering(
        model, AnswerSettings(free=free, **given), "answering-free" if free else "answering"
    )


def _decoding(
    model: Translator, wording: Wording, settings: AnswerSettings
) -> tuple[DecodeOptions, Constraints]:
    longest = settings.max_tokens
    if model.config.encoder_layers:
        longest = min(longest, model.config.max_positions)
    ranking: dict[str, Any] = {"length_penalty": 0.0} if settings.beam > 1 else {}
    options = model.settled(
        settings.group_size,
        mode=settings.mode,
        drafts=settings.drafts,
        beam=settings.beam,
        **ranking,
        max_length=longest,
        stop=wording.stop if settings.free else (),
        batch_size=settings.batch_size,
    )
    return options, model.checked(options)


def _total(written: Translation) -> float:
    """The log-probability of an answer; of none minus infinity."""
    return sum(written.scores) if written.scores else -math.inf
