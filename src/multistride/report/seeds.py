"""Several results of one measurement, such as those of models that were trained with several seeds,
as one table: the mean of every figure, and the lowest and the highest.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from multistride.errors import UsageError
from multistride.report.cells import ABSENT, Cells, Column
from multistride.report.result import Kind, Result, Row
from multistride.report.tables import columns_for, main_table

KINDS: tuple[Kind, ...] = ("translation", "phonemes", "generation", "task")
"""Kinds whose rows are ways of decoding one model. Others have rounds of their own."""

NUMBER = re.compile(r"-?[\d,]*\.?\d+")


def table_of_seeds(results: Mapping[str, Result]) -> Cells:
    """Return the table of several results, given by the names of their files.

    A cell is the mean; the lowest and the highest stand behind it where they differ. Raises
    `UsageError` for results that are not of one measurement.
    """
    _check_alike(results)
    all_of = list(results.values())
    columns = columns_for(all_of[0])
    rows = [
        [_cell(all_of, index, each) for each in columns] for index in range(len(all_of[0].rows))
    ]
    used = [index for index in range(len(columns)) if any(row[index] != ABSENT for row in rows)]
    return replace(
        main_table(all_of[0]),
        headings=[columns[index].heading for index in used],
        numeric=[columns[index].numeric for index in used],
        rows=[[row[index] for index in used] for row in rows],
        meanings=[columns[index].meaning for index in used],
        title=f"{all_of[0].name}: mean of {len(all_of)} results (lowest–highest)",
    )


def _check_alike(results: Mapping[str, Result]) -> None:
    (first, result), *others = results.items()
    for name, each in results.items():
        if each.kind not in KINDS:
            raise UsageError(
                f"{name} is of kind {each.kind}, of which several have no common table: give one "
                f"file, or several of kind {', '.join(KINDS)}"
            )
    for name, each in others:
        for what, mine, other in zip(
            ("kind", "task", "text", "settings", "BLEU signature", "rows"),
            _measured(result),
            _measured(each),
            strict=True,
        ):
            if mine != other:
                raise UsageError(
                    f"{first} and {name} are not of one measurement (they differ in {what}): give "
                    "results of the same text and options"
                )


_TEXT = ("source_sha256", "reference_sha256", "sentences", "prompts")
_SETTINGS = ("decoding", "drafts", "threshold", "max_tokens", "chat")
"""Conditions that results of one measurement share."""


def _measured(result: Result) -> tuple[Any, ...]:
    """Return what results of one measurement have in common."""
    rows = [(row.name, row.model, row.group_size, *row.way, row.batch_size) for row in result.rows]
    signatures = {row.bleu_signature for row in result.rows}
    text = [result.conditions.get(name) for name in _TEXT]
    settings = [result.conditions.get(name) for name in _SETTINGS]
    writing = result.conditions.get("writing")
    if isinstance(writing, dict):
        settings += [{name: value for name, value in writing.items() if name != "teacher"}]
    return (result.kind, result.task, text, settings, signatures, rows)


def _cell(results: Sequence[Result], index: int, column: Column) -> str:
    """Return the cell of one row of all results."""
    rows = [result.rows[index] for result in results]
    others = [result.baseline(row) for result, row in zip(results, rows, strict=True)]
    texts = [column.show(row, other) for row, other in zip(rows, others, strict=True)]
    shown = [text for text in texts if text is not None]
    if len(shown) < len(texts):
        return ABSENT  # a mean of some seeds would look like one of all
    if len(set(shown)) == 1:
        return shown[0]
    compared = [other for other in others if other is not None]
    mean = column.show(_mean(rows), _mean(compared) if compared else None) or ABSENT
    if any(len(NUMBER.findall(text)) != 1 for text in shown):
        return mean
    least, most = (choose(shown, key=_number) for choose in (min, max))
    return f"{mean} ({least}–{most})"


def _number(text: str) -> float:
    return float(NUMBER.findall(text)[0].replace(",", ""))


def _mean(rows: Sequence[Row]) -> Row:
    """Return a row whose figures are the means of those of rows, where all have them."""
    changed: dict[str, Any] = {}
    for name in Row.model_fields:
        values = [getattr(row, name) for row in rows]
        if all(isinstance(value, float) for value in values):
            changed[name] = sum(values) / len(values)
        elif any(value != values[0] for value in values):
            changed[name] = _mean_of_parts(values) if isinstance(values[0], dict) else None
    return rows[0].model_copy(update=changed)


def _mean_of_parts(values: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    return {
        name: sum(each[name] for each in values) / len(values)
        for name in values[0]
        if all(isinstance(each.get(name), int | float) for each in values)
    }
