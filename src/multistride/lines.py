"""Writing translations to a stream: one line each, whatever happens to the others."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict
from typing import Any, TextIO

from multistride.data.vocab import Vocabulary
from multistride.translator import Translation

TELL_EVERY_SECONDS = 30.0
"""How often a long translation says how far it is."""


def translate_stream(
    results: Iterable[Translation],
    vocabulary: Vocabulary,
    output: TextIO,
    trace: TextIO | None,
    as_json: bool,
    report: Callable[[str], None],
) -> int:
    """Write one line per result to `output`, and one JSON line per step to `trace`.

    A result without a translation is an empty line (as JSON: an object with `problem`), and is reported with its
    line number. Returns how many there were.
    """
    failed = 0
    told = time.monotonic()
    for line, result in enumerate(results, start=1):
        if result.problem:
            failed += 1
            report(f"line {line}: {result.problem}; an empty line stands in its place")
        output.write((json.dumps(_facts(result, vocabulary), ensure_ascii=False) if as_json else result.text) + "\n")
        if line % 1000 == 0 and time.monotonic() - told > TELL_EVERY_SECONDS:
            told = time.monotonic()
            report(f"{line:,} lines translated")
        if trace is not None:
            for group in result.trace:
                trace.write(
                    json.dumps({"line": line, **asdict(group), "pieces": vocabulary.pieces(group.tokens)}) + "\n"
                )
    output.flush()
    return failed


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
