"""Answering questions: a model is asked in its own words, over windows of a passage or choices.

**Windows.** A passage that the model cannot read at once is cut; BM25 picks the windows that are
worth reading, the model answers from each, and the most probable answer wins. Its tokens count
together, and so they do in beam search: in a span the first tokens say where it begins and the
others follow almost for sure, so an average would favour long ones.

**Choices.** Each is scored as the text after the question: on average per token by default, since
choices differ in what they name and a name of many tokens is improbable whatever it names. Both
numbers are reported.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from multistride.decode.options import DecodeOptions
from multistride.decode.spans import borders, spans
from multistride.tasks.answering.passages import retrieved, windows, word_count
from multistride.tasks.answering.question import (
    CHAT,
    ENCODER,
    PROMPT,
    AnsweringTask,
    Found,
    Question,
    plain,
)
from multistride.tasks.answering.settings import AnswerSettings
from multistride.tasks.record import Example, Opened, RecordError
from multistride.text_model import TextModel
from multistride.translation import Translation

MOST_TOKENS = 32
"""Tokens of an answer, the end included, unless told otherwise."""


@dataclass(frozen=True)
class _Reading:
    """One window that is read for a question: the text the model gets, and what may be copied."""

    question: int
    window: str
    text: str


class Answerer:
    """A model and how it is asked; `solve` answers examples of an `AnsweringTask`."""

    def __init__(self, model: TextModel, settings: AnswerSettings) -> None:
        talking = model.causal and model.vocabulary.chat_template is not None
        self.model = model.chatting() if talking else model
        self.wording = CHAT if talking else PROMPT if model.causal else ENCODER
        self.settings = settings
        self._spans = None if settings.free else spans(model.vocabulary, self.wording.opening)

    def settle(self, way: DecodeOptions) -> DecodeOptions:
        """Return how answers are decoded. Raises `UsageError` for what the model cannot follow."""
        longest = way.max_tokens or MOST_TOKENS
        if self.model.config.encoder_layers:
            longest = min(longest, self.model.config.max_positions)
        stop = self.wording.stop if self.settings.free else ()
        choices = way.given() | {"max_tokens": longest, "stop": stop}
        # Answers of windows compete by their total log-probability, so a beam ranks by it too.
        ranking: dict[str, Any] = {"length_penalty": 0.0} if way.beam > 1 else {}
        return self.model.plan(**choices, **ranking).options

    def solve(self, examples: Sequence[Example], way: DecodeOptions) -> list[Found | RecordError]:
        """Return the n-th answer, or why there is none, of the n-th question.

        `way` is what `settle` returned.
        """
        questions = [example for example in examples if isinstance(example, Question)]
        assert len(questions) == len(examples), "examples are made by an AnsweringTask"
        numbered = dict(enumerate(questions))
        chosen = {index: question for index, question in numbered.items() if question.choices}
        taken = {index: question for index, question in numbered.items() if not question.choices}
        # Exact mode writes what K=1 writes, so it scores choices as K=1 does.
        scored_at = 1 if way.mode == "exact" else way.group_size
        found = self._chosen(chosen, scored_at) | self._taken(taken, way)
        return [found[index] for index in numbered]

    def _chosen(
        self, questions: dict[int, Question], group_size: int
    ) -> dict[int, Found | RecordError]:
        """Return the most probable choices, by the index of the question."""
        pairs = [
            (each.source, self.wording.written(text))
            for each in questions.values()
            for text in each.choices
        ]
        scores = iter(self.model.score(pairs, group_size))
        return {
            index: self._best(each, list(islice(scores, len(each.choices))))
            for index, each in questions.items()
        }

    def _best(
        self, question: Question, scores: Sequence[Sequence[float] | None]
    ) -> Found | RecordError:
        """Return the most probable choice and how probable all are, from scores of tokens."""
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

    def _taken(
        self, questions: dict[int, Question], way: DecodeOptions
    ) -> dict[int, Found | RecordError]:
        """Return the answers out of passages, by the index of the question."""
        readings: list[_Reading] = []
        found: dict[int, Found | RecordError] = {}
        room = self._room(way)
        for index, question in questions.items():
            read = self._readings(index, question, room)
            if isinstance(read, RecordError):
                found[index] = read
            else:
                readings += read
        best: dict[int, tuple[_Reading, Translation]] = {}
        for reading, written in zip(readings, self._written(readings, way), strict=True):
            other = best.get(reading.question)
            if other is None or _total(written) > _total(other[1]):
                best[reading.question] = reading, written
        for index, (reading, written) in best.items():
            found[index] = self._found(questions[index], reading, written)
        return found

    def _readings(self, index: int, question: Question, room: int) -> list[_Reading] | RecordError:
        """Return the windows to read: one, if the model can read the whole passage."""
        passage = plain(question.passage or "")
        count = word_count(passage)
        # Signs count as words and may share a token with others; so much more than there is room
        # for cannot fit.
        words = self.settings.window or min(count, 2 * room)
        while True:
            texts = [passage] if words >= count else windows(passage, words)
            kept = [
                texts[place] for place in retrieved(question.question, texts, self.settings.windows)
            ]
            asked = [self.wording.asked(question.question, text) for text in kept]
            excess = max(map(len, self.model.encode(asked))) / room
            if excess <= 1:
                return [_Reading(index, *both) for both in zip(kept, asked, strict=True)]
            if words <= 8:
                problem = "the question is too long for the model, whatever the passage: shorten it"
                return RecordError(question.line, problem)
            words = max(8, int(words * min(0.9, 1 / excess)))

    def _room(self, way: DecodeOptions) -> int:
        """Return the most tokens that a question may have."""
        positions = self.model.config.max_positions
        if self.model.config.encoder_layers:
            return positions - 1
        return max(1, positions - (way.max_tokens or MOST_TOKENS))

    def _written(self, readings: Sequence[_Reading], way: DecodeOptions) -> list[Translation]:
        """Return what the model writes for each window."""
        texts = [reading.text for reading in readings]
        plan = self.model.planned(way)
        if self._spans is not None:
            tokens = self.model.encode(texts)
            copied = {
                tuple(row): reading.window for row, reading in zip(tokens, readings, strict=True)
            }
            rule = self._spans
            plan = plan.allowing(lambda source: rule(copied[tuple(source)]))
        return self.model.written(texts, plan)

    def _found(self, question: Question, reading: _Reading, written: Translation) -> Found:
        text = self.wording.read(written.text)
        if self._spans is not None and written.ending == "limit":
            text = whole_words(text, reading.window)
        start = plain(question.passage or "").find(text) if text else -1
        facts = {
            "score": round(_total(written), 4),
            "start": start if start >= 0 else None,
            "tokens": len(written.scores),
            "steps": len(written.trace),
            "window": reading.window if reading.window != plain(question.passage or "") else None,
        }
        return Found(text, facts)


def answering(model: TextModel, settings: AnswerSettings, name: str = "answering") -> Opened[Found]:
    """Return the task with a model behind it."""
    answerer = Answerer(model, settings)
    task = AnsweringTask(answerer.wording, name)
    return Opened(task, answerer.solve, answerer.settle, model.engine.name, refuse=task.refuse)


def whole_words(text: str, passage: str) -> str:
    """Return a span of a passage without a last word that was cut in the middle.

    A text that has no whole word, or does not begin a word of the passage, stays as it is.
    """
    places = borders(passage)
    start = next((place for place in places if passage.startswith(text, place)), None)
    if start is None:
        return text
    end = max(place for place in places if place <= start + len(text))
    return passage[start:end].rstrip() or text


def _total(written: Translation) -> float:
    """Return the log-probability of an answer; of none minus infinity."""
    return sum(written.scores) if written.scores else -math.inf
