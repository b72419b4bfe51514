"""Translation as a task: a record has `source` and, to be measured, `target`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from multistride.decode.options import DecodeOptions
from multistride.errors import DataError
from multistride.metrics.quality import measure_quality
from multistride.tasks.record import (
    Answer,
    Example,
    Opened,
    Record,
    RecordError,
    text_field,
)
from multistride.text_model import TextModel


class TranslationTask:
    """Source text to target text; BLEU and chrF (0 to 100) with sacreBLEU's defaults."""

    name = "translation"

    def example(self, record: Record, line: int) -> Example:
        """Return the source and, if there is one, the target.

        Raises `RecordError` for a field that is no text.
        """
        target = text_field(record, "target", line) if "target" in record else None
        return Example(line, text_field(record, "source", line), target)

    def answer(self, output: str, record: Record) -> Answer:
        """Return the translation."""
        return Answer(output)

    def refuse(self, records: Iterable[Record]) -> None:
        """Raise `DataError` for a record without `target`."""
        bare = next((record for record in records if "target" not in record), None)
        if bare is not None:
            raise DataError(
                f"a record has {', '.join(bare)} and no 'target', against which quality is "
                "measured: add the translation, or name its field so"
            )

    def metrics(self, answers: Sequence[Answer], records: Sequence[Record]) -> dict[str, float]:
        """Return BLEU and chrF against `target`."""
        quality = measure_quality(
            [answer.text for answer in answers], [record["target"] for record in records]
        )
        return {"bleu": quality.bleu, "chrf": quality.chrf}


def translation(translator: TextModel) -> Opened[str]:
    """Return the task with a translator behind it."""

    def settle(way: DecodeOptions) -> DecodeOptions:
        return translator.plan(**way.given()).options

    def solve(examples: Sequence[Example], way: DecodeOptions) -> list[str | RecordError]:
        texts = [example.source for example in examples]
        written = translator.written(texts, translator.planned(way))
        return [
            RecordError(example.line, result.problem) if result.problem else result.text
            for example, result in zip(examples, written, strict=True)
        ]

    task = TranslationTask()
    return Opened(task, solve, settle, translator.engine.name, refuse=task.refuse)
