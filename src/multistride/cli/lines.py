"""Writing translations and scores to a stream: one line each, whatever happens to the others."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Literal, TextIO

from multistride.data.corpus import Pair, Record, Unreadable, read_parallel
from multistride.data.detokenize import one_line
from multistride.data.pieces import GROUP_BAR, group_texts
from multistride.data.vocab import Vocabulary
from multistride.decode.options import DecodeOptions
from multistride.decode.state import Ending, Group
from multistride.decode.trace import trace_entries
from multistride.errors import DataError
from multistride.files import Journal
from multistride.translator import Translation, Translator

LineFormat = Literal["text", "groups", "json", "stream"]
"""A result as its text, with a bar between steps, as an object with all that is known of it, or as
it comes."""

TELL_EVERY_SECONDS = 30.0
"""How often a long translation says how far it is."""


SCORED_TOGETHER = 2048
"""Pairs read before the first score is printed."""


def write_lines(
    translator: Translator,
    lines: Iterable[bytes],
    options: DecodeOptions,
    output: TextIO,
    trace: Journal | None,
    form: LineFormat,
    buffer: int,
    report: Callable[[str], None],
) -> int:
    """Decode lines, `buffer` at a time, and write one result for each in the format `form`; returns
    how many failed.

    Raises `UsageError` for options that the model cannot follow, before anything is read.
    """
    translator.checked(options, streaming=form == "stream")
    if form == "stream":
        return stream_lines(translator, lines, options, output, trace, report)
    results = translator.translate_lines(lines, options, buffer)
    return translate_stream(results, translator.vocabulary, options, output, trace, form, report)


def translate_stream(
    results: Iterable[Translation],
    vocabulary: Vocabulary,
    options: DecodeOptions,
    output: TextIO,
    trace: Journal | None,
    form: LineFormat,
    report: Callable[[str], None],
) -> int:
    """Write one line per result to `output` in the format `form`, and one JSON line per step to
    `trace`.

    A result without a translation is an empty line (as JSON: an object with `problem`), and is
    reported with its line number. Returns how many there were.
    """
    failed = 0
    told = time.monotonic()
    for line, result in enumerate(results, start=1):
        if result.problem:
            failed += 1
            report(f"line {line}: {result.problem}; an empty line stands in its place")
        output.write(line_of(result, vocabulary, form) + "\n")
        if line % 1000 == 0 and time.monotonic() - told > TELL_EVERY_SECONDS:
            told = time.monotonic()
            report(f"{line:,} lines done")
        _write_trace(trace, line, result.trace, result.ending, options, vocabulary)
    output.flush()
    return failed


def stream_lines(
    translator: Translator,
    lines: Iterable[bytes],
    options: DecodeOptions,
    output: TextIO,
    trace: Journal | None,
    report: Callable[[str], None],
) -> int:
    """Write each line's translation to `output` group by group, as it comes; otherwise like
    `translate_stream`.
    """
    failed = 0
    for line, raw in enumerate(lines, start=1):
        groups: list[Group] = []
        ending: Ending | None = None
        try:
            for part in translator.stream_line(raw, options):
                output.write(part.text)
                output.flush()
                groups, ending = [*groups, part.group], part.ending
        except DataError as error:
            failed += 1
            report(f"line {line}: {error}; an empty line stands in its place")
        except KeyboardInterrupt:
            _write_trace(trace, line, groups, "cancelled", options, translator.vocabulary)
            raise
        output.write("\n")
        output.flush()
        _write_trace(trace, line, groups, ending, options, translator.vocabulary)
    return failed


def _write_trace(
    trace: Journal | None,
    line: int,
    groups: Sequence[Group],
    ending: Ending | None,
    options: DecodeOptions,
    vocabulary: Vocabulary,
) -> None:
    if trace is not None:
        entries = trace_entries(groups, ending, options, vocabulary.pieces)
        trace.write(
            "".join(
                json.dumps({"line": line, **entry}, ensure_ascii=False) + "\n" for entry in entries
            )
        )


def line_of(result: Translation, vocabulary: Vocabulary, form: LineFormat) -> str:
    """A translation as one line of the format `form`."""
    if form == "json":
        return json.dumps(_facts(result, vocabulary), ensure_ascii=False)
    if form == "groups":
        return GROUP_BAR.join(
            group_texts([vocabulary.pieces(group.tokens) for group in result.trace])
        )
    return one_line(result.text)


def score_stream(
    translator: Translator,
    source: Path,
    target: Path,
    group_size: int,
    as_json: bool,
    report: Callable[[str], None],
) -> int:
    """Print one line per pair on stdout: its log-probability, a tab, and the number of its tokens.

    As JSON: an object with the log-probability of every token. A pair that cannot be scored is an
    empty line (an object with `problem`), and is reported with its line number. Returns how many
    there were.
    """
    failed = 0
    for first, records in _numbered(read_parallel(source, target)):
        readable = [
            (record.source, record.target) for record in records if isinstance(record, Pair)
        ]
        scores = iter(translator.score(readable, group_size))
        for line, record in enumerate(records, start=first):
            values = next(scores) if isinstance(record, Pair) else None
            problem = None
            if values is None:
                failed += 1
                problem = record.reason if isinstance(record, Unreadable) else "it is too long"
                report(f"line {line}: {problem}; an empty line stands in its place")
            print(_score_line(values, problem, as_json))
    return failed


def _numbered(records: Iterable[Record]) -> Iterator[tuple[int, list[Record]]]:
    """The records in pieces, each with the line number of its first."""
    iterator, first = iter(records), 1
    while piece := list(islice(iterator, SCORED_TOGETHER)):
        yield first, piece
        first += len(piece)


def _score_line(values: list[float] | None, problem: str | None, as_json: bool) -> str:
    if as_json:
        total = None if values is None else round(sum(values), 4)
        rounded = [round(value, 4) for value in values or ()]
        return json.dumps(
            {"score": total, "tokens": len(rounded), "scores": rounded, "problem": problem}
        )
    return "" if values is None else f"{sum(values):.4f}\t{len(values)}"


def _facts(result: Translation, vocabulary: Vocabulary) -> dict[str, Any]:
    return {
        "text": result.text,
        "tokens": result.tokens,
        "scores": [round(score, 4) for score in result.scores],
        "groups": [vocabulary.pieces(group.tokens) for group in result.trace],
        "steps": len(result.trace),
        "ending": result.ending,
        "problem": result.problem,
    }
