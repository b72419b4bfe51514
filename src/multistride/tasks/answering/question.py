"""Questions: the text a model reads of a record, the meaning of its output, and the figures.

A record has a `question` and a `passage`, out of which the answer is taken, or `choices`, one of
which is the answer, or both. To be measured it has `answers` (texts that are right) or `answer`
(one).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from multistride.errors import DataError
from multistride.metrics.answers import exact_match, f1, normalised
from multistride.tasks.record import Answer, Example, Record, RecordError, text_field


@dataclass(frozen=True)
class Question(Example):
    """An example that keeps its parts; `passage` is None where only `choices` are given."""

    question: str = ""
    passage: str | None = None
    choices: tuple[str, ...] = ()


@dataclass(frozen=True)
class Found:
    """An answer; `facts` are what else is known, as JSON."""

    text: str
    facts: dict[str, Any]


@dataclass(frozen=True)
class Wording:
    """The words in which one kind of model is asked, and in which it answers.

    `asked` makes the text it reads of a question and a passage (None: there is none), `written` the
    text it writes of an answer. What it writes begins with `opening`; a text of `stop` ends it.
    """

    asked: Callable[[str, str | None], str]
    written: Callable[[str], str]
    opening: str = ""
    stop: tuple[str, ...] = ()

    def read(self, text: str) -> str:
        """Return the answer in what a model wrote."""
        return text.strip().removeprefix(self.opening).strip()


def plain(text: str) -> str:
    """Return the text on one line, every run of blanks as one blank."""
    return " ".join(text.split())


def _encoder_source(question: str, passage: str | None) -> str:
    about = "" if passage is None else f" passage: {plain(passage)}"
    return f"question: {plain(question)}{about}"


def _chat_turn(question: str, passage: str | None) -> str:
    if passage is None:
        return f"Answer the question with a few words.\n\nQuestion: {plain(question)}"
    wanted = "Answer the question with a few words copied from the passage."
    return f"{wanted}\n\nPassage: {plain(passage)}\n\nQuestion: {plain(question)}"


def _prompt(question: str, passage: str | None) -> str:
    about = "" if passage is None else f"Passage: {plain(passage)}\n"
    return f"{about}Question: {plain(question)}\nAnswer:"


ENCODER = Wording(_encoder_source, lambda answer: f": {plain(answer)}", opening=":")
"""For a model with an encoder. The source is worded as for T5 (Raffel et al. 2020, arXiv
1910.10683, appendix D). The opening is there for the blank behind it: with a blank before them
words are cut into the same tokens as in the passage, and can be copied."""

CHAT = Wording(_chat_turn, plain)
"""For a causal model with a chat template: what its user says."""

PROMPT = Wording(_prompt, lambda answer: f" {plain(answer)}", stop=("\n",))
"""For any other causal model: a text that an answer goes on from."""


class AnsweringTask:
    """Exact match and F1 of answers out of passages, accuracy of choices (0-1), and steps.

    `in_passage` is the share of answers that stand in their passage. Each figure is over the
    records it is about: a file may have both kinds.
    """

    def __init__(self, wording: Wording, name: str = "answering") -> None:
        self.name = name
        self._wording = wording

    def example(self, record: Record, line: int) -> Question:
        """Return the texts of a record. Raises `RecordError` without passage and choices, too."""
        question, choices = text_field(record, "question", line), _choices(record, line)
        if "passage" not in record and not choices:
            raise RecordError(
                line,
                "the question has neither a 'passage' to answer from nor 'choices': add one of "
                "them",
            )
        passage = text_field(record, "passage", line) if "passage" in record else None
        right = right_answers(record, line)
        target = self._wording.written(right[0]) if right else None
        source = self._wording.asked(question, passage)
        return Question(line, source, target, question, passage, choices)

    def answer(self, output: Found, record: Record) -> Answer:
        """Return the answer with what is known of it."""
        return Answer(output.text, output.facts)

    def refuse(self, records: Iterable[Record]) -> None:
        """Raise `DataError` for a record without an answer."""
        if any(not right_answers(record) for record in records):
            raise DataError(
                "a record has neither 'answers' nor 'answer', which answers are measured against: "
                "add them"
            )

    def metrics(self, answers: Sequence[Answer], records: Sequence[Record]) -> dict[str, float]:
        """Return the figures of the records."""
        both = list(zip(answers, records, strict=True))
        chosen = [(answer, record) for answer, record in both if record.get("choices")]
        taken = [(answer, record) for answer, record in both if not record.get("choices")]
        figures: dict[str, float] = {}
        if taken:
            figures["exact_match"] = _mean(
                [exact_match(each.text, right_answers(record)) for each, record in taken]
            )
            figures["f1"] = _mean([f1(each.text, right_answers(record)) for each, record in taken])
            figures["in_passage"] = _mean(
                [float(stands_in(each.text, record["passage"])) for each, record in taken]
            )
            steps = sum(each.facts.get("steps", 0) for each, _ in taken)
            if steps:
                figures["steps_per_answer"] = steps / len(taken)
                figures["tokens_per_step"] = sum(each.facts["tokens"] for each, _ in taken) / steps
        if chosen:
            figures["accuracy"] = _mean(
                [float(each.text in right_answers(record)) for each, record in chosen]
            )
        return figures


def stands_in(answer: str, passage: str) -> bool:
    """Return whether the answer stands in the passage, blanks aside."""
    return bool(answer.strip()) and plain(answer) in plain(passage)


def right_answers(record: Record, line: int = 0) -> list[str]:
    """Return the texts of `answers` or `answer`. Raises `RecordError` for what is no text."""
    given = record.get("answers", record.get("answer"))
    texts = [given] if isinstance(given, str) else given
    if texts is None:
        return []
    if isinstance(texts, list) and all(isinstance(text, str) for text in texts):
        return [text for text in texts if normalised(text) or text]
    raise RecordError(line, f"the answers are {_shown(given)}; they must be a list of texts")


def _choices(record: Record, line: int) -> tuple[str, ...]:
    if "choices" not in record:
        return ()
    given = record["choices"]
    texts = (
        [text for text in given if isinstance(text, str) and text.strip()]
        if isinstance(given, list)
        else []
    )
    if not isinstance(given, list) or len(texts) != len(given) or len(set(texts)) < 2:
        raise RecordError(
            line,
            f"the field 'choices' is {_shown(given)}; it must be a list of two different texts or "
            "more",
        )
    return tuple(texts)


def _shown(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)[:60]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
