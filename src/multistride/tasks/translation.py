"""Translation as a task: a record has `source` and, to be measured, `target`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sacrebleu.metrics import BLEU, CHRF

from multistride.errors import DataError
from multistride.tasks.task import (
    Answer,
    Example,
    Opened,
    Record,
    RecordError,
    TaskRequest,
    text_field,
)
from multistride.translator import Translator


class TranslationTask:
    """Source text to target text; BLEU and chrF (0 to 100) with sacreBLEU's defaults."""

    name = "translation"

    def example(self, record: Record, line: int) -> Example:
        """The source and, if there is one, the target. Raises `RecordError` for a field that is no
        text.
        """
        target = text_field(record, "target", line) if "target" in record else None
        return Example(line, text_field(record, "source", line), target)

    def answer(self, output: str, record: Record) -> Answer:
        """The translation."""
        return Answer(output)

    def metrics(self, answers: Sequence[Answer], records: Sequence[Record]) -> dict[str, float]:
        """BLEU and chrF against `target`. Raises `DataError` where a record has none."""
        if not all("target" in record for record in records):
            raise DataError(
                "a record has no 'target', and quality is measured against it: add the translations"
            )
        texts, references = (
            [answer.text for answer in answers],
            [[record["target"] for record in records]],
        )
        return {
            "bleu": float(BLEU().corpus_score(texts, references).score),
            "chrf": float(CHRF().corpus_score(texts, references).score),
        }


def open_translation(request: TaskRequest) -> Opened[str]:
    """A translator behind the task. Raises as `Translator.load` and `Translator.translate` do."""
    translator = Translator.load(request.model, request.device, request.engine)
    ways: dict[str, Any] = request.model_dump(include={"mode", "drafts", "beam", "batch_size"})
    options = translator.settled(request.group_size, **ways)
    translator.checked(options)

    def solve(examples: Sequence[Example]) -> list[str | RecordError]:
        texts = [example.source for example in examples]
        written = translator.translate(texts, request.group_size, **ways)
        return [
            RecordError(example.line, result.problem) if result.problem else result.text
            for example, result in zip(examples, written, strict=True)
        ]

    return Opened(TranslationTask(), solve)
