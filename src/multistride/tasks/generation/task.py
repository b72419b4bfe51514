"""Text generation as a task: summaries, sentences from concepts, continuations of prompts.

A record has `source` (a text: what is read or continued) and, to be measured, `references` (texts,
each of which is right) or `reference` (one text); `concepts` (words that the text must have) are
measured where they are given. A model with an encoder writes a text of its own, a causal one goes
on from the source.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from multistride.decode.options import DecodeOptions
from multistride.errors import UsageError
from multistride.metrics.overlap import bleu, concept_coverage, length_ratio, rouge
from multistride.metrics.quality import perplexity
from multistride.metrics.repetition import (
    distinct,
    repeated,
    repeated_at,
    repetition_by_distance,
    self_bleu,
)
from multistride.tasks.record import (
    Answer,
    Example,
    Opened,
    Record,
    RecordError,
    text_field,
)
from multistride.text_model import TextModel
from multistride.translation import Translation

MOST_TOKENS = 64
"""Tokens that a causal model writes at most, unless told otherwise."""

SHOWN = 5
"""Answers kept in the details of a result, beside what was asked."""


class GenerationTask:
    """A text from a source, measured against references, concepts, itself and a teacher."""

    name = "generation"

    def __init__(self, teacher: TextModel | None = None) -> None:
        self.teacher = teacher

    def example(self, record: Record, line: int) -> Example:
        """Return the source and the first reference. Raises `RecordError` for bad fields."""
        source = text_field(record, "source", line)
        for name in ("references", "concepts"):
            _check_texts(record, name, line)
        if "reference" in record:
            text_field(record, "reference", line)
            if "references" in record:
                raise RecordError(
                    line, "it has 'reference' and 'references': name all of them in 'references'"
                )
        own = references(record)
        return Example(line, source, own[0] if own else None)

    def answer(self, output: Translation, record: Record) -> Answer:
        """Return the text, its tokens and how many steps wrote them (`written` counts EOS too)."""
        facts = {
            "tokens": list(output.tokens),
            "steps": len(output.trace),
            "written": len(output.scores),
        }
        return Answer(output.text, facts)

    def metrics(self, answers: Sequence[Answer], records: Sequence[Record]) -> dict[str, float]:
        """Return all figures that the records allow; shares are 0-1, BLEU is 0-100.

        `perplexity` is that of the texts under the teacher at K=1, in its tokens. Raises
        `MissingExtraError` without the package rouge-score where records have references.
        """
        tokens = [answer.facts["tokens"] for answer in answers]
        texts = [answer.text for answer in answers]
        steps = sum(answer.facts["steps"] for answer in answers)
        written = sum(answer.facts["written"] for answer in answers)
        alike = self_bleu(texts)
        return {
            **_against_references(texts, records),
            "distinct_1": distinct(tokens, 1),
            "distinct_2": distinct(tokens, 2),
            **({} if alike is None else {"self_bleu": alike}),
            "repetition_rate": repeated_at(tokens, 1),
            "repeated_4_grams": repeated(tokens, 4),
            **self._perplexity(texts, records),
            "steps_per_text": steps / len(answers),
            "tokens_per_step": written / steps if steps else 0.0,
        }

    def details(self, answers: Sequence[Answer], records: Sequence[Record]) -> dict[str, Any]:
        """Return repetition by distance, BLEU's signature, concepts of references, answers."""
        texts = [answer.text for answer in answers]
        measured = [(text, references(record)) for text, record in zip(texts, records, strict=True)]
        known = [(text, own) for text, own in measured if own]
        listed = [record for record in records if record.get("concepts") and references(record)]
        found: dict[str, Any] = {
            "repetition_by_distance": repetition_by_distance(
                [answer.facts["tokens"] for answer in answers]
            ),
            "with_references": len(known),
        }
        if known:
            found["bleu_signature"] = bleu(*map(list, zip(*known, strict=True)))[1]
        if listed:
            pairs = [(each, record["concepts"]) for record in listed for each in references(record)]
            found["concept_coverage_of_references"] = concept_coverage(
                *map(list, zip(*pairs, strict=True))
            )
        found["examples"] = [
            {"source": record["source"], "references": references(record), "text": text}
            for text, record in list(zip(texts, records, strict=True))[:SHOWN]
        ]
        return found

    def _perplexity(self, texts: Sequence[str], records: Sequence[Record]) -> dict[str, float]:
        if self.teacher is None:
            return {}
        pairs = [(record["source"], text) for text, record in zip(texts, records, strict=True)]
        scores = [value for values in self.teacher.score(pairs) for value in values or ()]
        found = perplexity(scores)
        return {} if found is None else {"perplexity": found}


def references(record: Record) -> list[str]:
    """Return the texts that are right for a record; none where it has none."""
    own: list[str] = record.get("references") or [
        record[name] for name in ("reference",) if name in record
    ]
    return own


def generation(model: TextModel, teacher: TextModel | None = None) -> Opened[Translation]:
    """Return the task with a model behind it, and its teacher if there is one.

    The teacher also says how probable texts are. Raises `UsageError` for a teacher of another kind.
    """
    if teacher is not None:
        _check_kinds(teacher, model)
    task = GenerationTask(teacher)
    behind = None if teacher is None else _opened(teacher, task)
    return _opened(model, task, behind)


def _opened(
    model: TextModel, task: GenerationTask, teacher: Opened[Translation] | None = None
) -> Opened[Translation]:
    def settle(way: DecodeOptions) -> DecodeOptions:
        choices = way.given()
        if model.causal:  # a causal model rarely stops by itself
            choices["max_tokens"] = way.max_tokens or MOST_TOKENS
        return model.plan(**choices).options

    def solve(examples: Sequence[Example], way: DecodeOptions) -> list[Translation | RecordError]:
        texts = [example.source for example in examples]
        written = model.written(texts, model.planned(way))
        return [
            RecordError(example.line, result.problem) if result.problem else result
            for example, result in zip(examples, written, strict=True)
        ]

    return Opened(task, solve, settle, model.engine.name, task.details, teacher)


def _check_kinds(teacher: TextModel, model: TextModel) -> None:
    """Raise `UsageError` unless teacher and model are of one kind."""
    if teacher.causal != model.causal:
        kinds = ("a causal model", "a model with an encoder")
        first, second = kinds if teacher.causal else kinds[::-1]
        raise UsageError(
            f"the teacher {teacher.directory} is {first} and the model is {second}: give two of "
            "one kind"
        )


def _against_references(texts: Sequence[str], records: Sequence[Record]) -> dict[str, float]:
    """Return the figures against references and concepts, over the records that have them."""
    known = [
        (text, references(record))
        for text, record in zip(texts, records, strict=True)
        if references(record)
    ]
    asked = [
        (text, record["concepts"])
        for text, record in zip(texts, records, strict=True)
        if "concepts" in record
    ]
    found: dict[str, float] = {}
    if known:
        written, right = map(list, zip(*known, strict=True))
        found = {**rouge(written, right)._asdict(), "bleu": bleu(written, right)[0]}
        found["length_ratio"] = length_ratio(written, right)
    if asked:
        found["concept_coverage"] = concept_coverage(*map(list, zip(*asked, strict=True)))
    return found


def _check_texts(record: Record, name: str, line: int) -> None:
    """Raise `RecordError` for a field that is there and is no list of texts."""
    value = record.get(name, ["there is none"])
    if not (
        isinstance(value, list)
        and value
        and all(isinstance(each, str) and each.strip() for each in value)
    ):
        shown = json.dumps(value, ensure_ascii=False)[:40]
        raise RecordError(
            line, f"the field {name!r} is {shown}; it must be a list of at least one text"
        )
