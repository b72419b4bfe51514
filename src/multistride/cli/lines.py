"""Write translations and scores: one line for each input, whatever happens to the others."""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TextIO

from multistride.cli.console import noting_none
from multistride.cli.options import LineFormat
from multistride.data.corpus import Record, Unreadable, read_parallel
from multistride.data.detokenize import one_line
from multistride.data.pieces import GROUP_BAR, group_texts
from multistride.data.vocab import Vocabulary
from multistride.decode.ending import Ending
from multistride.decode.hypothesis import Group
from multistride.decode.options import DecodeOptions
from multistride.decode.trace import trace_entries
from multistride.errors import DataError
from multistride.files import Journal
from multistride.parts import chunks
from multistride.translation import LineModel, P, Translation
from multistride.untrusted import parse_json

if TYPE_CHECKING:  # translating without PyTorch needs neither
    from multistride.cli.chunks import Decode
    from multistride.decode.plan import Plan
    from multistride.text_model import TextModel

logger = logging.getLogger(__name__)

TELL_EVERY_SECONDS = 30.0
"""How often a long translation says how far it is."""

EMPTY_LINE = "line %d: %s; its line in the output is empty"

SCORED_TOGETHER = 2048
"""Pairs read before the first score is printed."""


@dataclass(frozen=True)
class Sink:
    """The destination of results: `output` gets one line each, `trace` one JSON line a step.

    After every `buffer` results the output is flushed, so that whoever waits for them has them.
    """

    output: TextIO
    form: LineFormat = "text"
    trace: Journal | None = None
    buffer: int = 1024


def write_lines(
    translator: TextModel,
    lines: Iterable[bytes],
    plan: Plan,
    sink: Sink,
    decode: Decode | None = None,
) -> int:
    """Decode lines and write one result for each; return how many failed.

    `decode` lets others do the work, `sink.buffer` lines each; None: `translator` does it here.
    """
    if sink.form == "stream":
        return stream_lines(translator, lines, plan, sink)
    if decode is None:
        return write_own(translator, lines, plan, sink)
    with closing(decode(chunks(lines, sink.buffer))) as decoded:
        shared = chain.from_iterable(result.translations for _, result in decoded)
        return translate_stream(shared, translator.vocabulary, plan.options, sink)


def write_own(translator: LineModel[P], lines: Iterable[bytes], plan: P, sink: Sink) -> int:
    """`write_lines` by a model of this process, whole lines at a time."""
    results = translator.translate_lines(lines, plan, sink.buffer)
    return translate_stream(results, translator.vocabulary, plan.options, sink)


def translate_stream(
    results: Iterable[Translation], vocabulary: Vocabulary, options: DecodeOptions, sink: Sink
) -> int:
    """Write one line per result; return how many have no translation.

    Such a result is an empty line (as JSON: an object with `problem`), and its number is logged.
    """
    failed = 0
    told = time.monotonic()
    for line, result in enumerate(results, start=1):
        if result.problem:
            failed += 1
            logger.warning(EMPTY_LINE, line, result.problem)
        sink.output.write(line_of(result, vocabulary, sink.form) + "\n")
        if line % sink.buffer == 0:
            sink.output.flush()
        if line % 1000 == 0 and time.monotonic() - told > TELL_EVERY_SECONDS:
            told = time.monotonic()
            logger.info(f"{line:,} lines done")
        _write_trace(sink.trace, line, result.trace, result.ending, options, vocabulary)
    sink.output.flush()
    return failed


def stream_lines(translator: TextModel, lines: Iterable[bytes], plan: Plan, sink: Sink) -> int:
    """Write each line's translation group by group, as it comes; else like `translate_stream`."""
    failed = 0
    for line, raw in enumerate(lines, start=1):
        groups: list[Group] = []
        ending: Ending | None = None
        try:
            for part in translator.stream_line(raw, plan):
                sink.output.write(part.text)
                sink.output.flush()
                groups, ending = [*groups, part.group], part.ending
        except DataError as error:
            failed += 1
            logger.warning(EMPTY_LINE, line, error)
        except KeyboardInterrupt:
            _write_trace(sink.trace, line, groups, "cancelled", plan.options, translator.vocabulary)
            raise
        sink.output.write("\n")
        sink.output.flush()
        _write_trace(sink.trace, line, groups, ending, plan.options, translator.vocabulary)
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
        groups = group_texts([vocabulary.pieces(group.tokens) for group in result.trace])
        return one_line(GROUP_BAR.join(groups))
    return one_line(result.text)


def score_stream(
    translator: TextModel,
    source: Path,
    target: Path,
    group_size: int,
    form: Literal["text", "json"] = "text",
    by_tokens: bool = False,
) -> int:
    """Print one line per pair on stdout: its log-probability, a tab, and the number of its tokens.

    `by_tokens`: targets are lines of `translate --json`, scored by the tokens that were written;
    EOS is one of them unless the line says that the text ended otherwise.
    As JSON: an object with the log-probability of every token. A pair that cannot be scored is an
    empty line (an object with `problem`), and its number is logged. Return how many there were.
    """
    failed = 0
    aligned = noting_none(read_parallel(source, target, may_be_empty=True), source)
    for first, records in _numbered(aligned):
        size = len(translator.vocabulary) if by_tokens else None
        readable = [_to_score(record, size) for record in records]
        pairs = [each.pair for each in readable if not isinstance(each, Unreadable)]
        scores = iter(translator.score(pairs, group_size))
        for line, pair in enumerate(readable, start=first):
            values = None if isinstance(pair, Unreadable) else next(scores)
            if values is not None and not isinstance(pair, Unreadable) and not pair.ended:
                values = values[:-1]
            problem = None
            if values is None:
                failed += 1
                problem = pair.reason if isinstance(pair, Unreadable) else "it is too long"
                logger.warning(EMPTY_LINE, line, problem)
            print(_score_line(values, problem, form == "json"))
    return failed


class _ToScore(NamedTuple):
    """A source with a text or tokens, and whether EOS was written behind them."""

    pair: tuple[str, str | list[int]]
    ended: bool = True


def _to_score(record: Record, vocabulary_size: int | None) -> _ToScore | Unreadable:
    """Return what to score of a pair: its texts, or the tokens that its target line holds."""
    if isinstance(record, Unreadable):
        return record
    if vocabulary_size is None:
        return _ToScore((record.source, record.target))
    try:
        written = parse_json(record.target)
        tokens = written["tokens"]
        fits = all(type(token) is int and 0 <= token < vocabulary_size for token in tokens)
    except (ValueError, TypeError, KeyError):
        fits = False
    if not fits:
        problem = "its target holds no tokens of this model: give lines of `translate --json`"
        return Unreadable(problem)
    return _ToScore((record.source, list(tokens)), written.get("ending") in (None, "end"))


def _numbered(records: Iterable[Record]) -> Iterator[tuple[int, list[Record]]]:
    """The records in pieces, each with the line number of its first."""
    iterator, first = iter(records), 1
    while piece := list(islice(iterator, SCORED_TOGETHER)):
        yield first, piece
        first += len(piece)


def _score_line(values: list[float] | None, problem: str | None, as_json: bool) -> str:
    if as_json:
        total = None if values is None else _finite(sum(values))
        rounded = [_finite(value) for value in values or ()]
        return json.dumps(
            {"score": total, "tokens": len(rounded), "scores": rounded, "problem": problem}
        )
    return "" if values is None else f"{sum(values):.4f}\t{len(values)}"


def _finite(value: float) -> float | None:
    """Return a log-probability as JSON can hold it: None for a token that is never written."""
    return round(value, 4) if math.isfinite(value) else None


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
