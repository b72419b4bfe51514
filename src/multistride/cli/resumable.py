"""Translating a file so that the work can stop at any moment and go on later: `translate --input
--output`.

The parts are those of distillation (`parts.py`): each is written whole, knows its source lines and
the settings that made it, and is made again where it is damaged.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from multistride.cli.lines import LineFormat, line_of
from multistride.data.corpus import read_lines
from multistride.decode.options import DecodeOptions
from multistride.errors import DataError, Interrupted, UsageError
from multistride.files import replacing_file, sha256
from multistride.model.weights import CONFIG, weights_digest
from multistride.parts import Chunk, PartsDirectory, chunks
from multistride.progress import ProgressLine
from multistride.translator import Translator
from multistride.version import __version__

FORMAT = 1


@dataclass(frozen=True)
class FileRequest:
    """What to translate and how: `model` is where the translator was read from, `chunk` the lines
    of a part.

    `window` is how many sentences a `WindowTranslator` joins, which decides what is written, too.
    """

    model: Path
    source: Path
    output: Path
    options: DecodeOptions
    form: LineFormat
    chunk: int
    window: int | None = None


def translate_file(
    translator: Translator,
    request: FileRequest,
    report: Callable[[str], None],
    progress: ProgressLine | None = None,
) -> int:
    """Write `request.output`, line by line, and return how many lines have no translation (theirs
    are empty).

    Called again after any kind of end, it goes on with the parts that are done. Raises `UsageError`
    for an output that is also read or for parts that other settings began, `DataError` for a file
    that cannot be read or changes meanwhile, and `Interrupted` after Ctrl-C.
    """
    source, output = request.source, request.output
    if source.resolve() == output.resolve():
        raise UsageError(f"{output} is also read: name another output")
    if output.is_dir():
        raise UsageError(f"{output} is a directory, the output is a file: name another output")
    lines = sum(1 for _ in read_lines(source))
    parts = PartsDirectory(output)
    try:
        with parts.opened(_plan(translator, request, lines)):
            _write_parts(
                translator,
                request,
                parts,
                lines,
                report,
                progress or ProgressLine("translate", "line"),
            )
            failed = _join(request, parts, lines)
            parts.discard()
    except KeyboardInterrupt as error:
        raise Interrupted(
            "stopped; nothing that is done is lost: the same command goes on from here"
        ) from error
    return failed


def _plan(translator: Translator, request: FileRequest, lines: int) -> dict[str, Any]:
    """All that decides what is written; parts made under another plan are never mixed with
    these.
    """
    return {
        "format": FORMAT,
        "multistride": __version__,
        "source_sha256": sha256(request.source),
        "lines": lines,
        "model_sha256": weights_digest(request.model),
        "model_config_sha256": sha256(request.model / CONFIG),
        "vocabulary_sha256": translator.vocabulary.digest(),
        "form": request.form,
        "chunk": request.chunk,
        **({} if request.window is None else {"window": request.window}),
        **request.options.model_dump(mode="json"),
    }


def _write_parts(
    translator: Translator,
    request: FileRequest,
    parts: PartsDirectory,
    lines: int,
    report: Callable[[str], None],
    progress: ProgressLine,
) -> None:
    """Translate every chunk that has no good part yet."""
    source = chunks(read_lines(request.source), request.chunk)
    missing = {
        chunk.number: len(chunk.lines) for chunk in source if not parts.is_done(chunk, report)
    }
    done = lines - sum(missing.values())
    if done:
        report(f"{done:,} of {lines:,} lines are done already")
    with progress.showing(lines, done):
        for chunk in chunks(read_lines(request.source), request.chunk):
            if chunk.number in missing:
                _write_part(translator, request, parts, chunk, report)
                done += len(chunk.lines)
                progress.reached(done, f"{progress.rate:,.1f} lines/s")


def _write_part(
    translator: Translator,
    request: FileRequest,
    parts: PartsDirectory,
    chunk: Chunk,
    report: Callable[[str], None],
) -> None:
    texts, problems, unfinished, began = [], 0, 0, time.perf_counter()
    for line, result in enumerate(
        translator.translate_lines(chunk.lines, request.options), start=chunk.first
    ):
        if result.problem:
            problems += 1
            report(f"line {line}: {result.problem}; an empty line stands in its place")
        unfinished += result.ending == "limit"
        texts.append(line_of(result, translator.vocabulary, request.form))
    empty = {"problem": problems} if problems else {}
    parts.write(chunk, texts, empty, unfinished, time.perf_counter() - began)


def _join(request: FileRequest, parts: PartsDirectory, lines: int) -> int:
    """Check every part against its source lines and put them together; return how many lines had a
    problem.
    """
    failed = joined = 0
    with replacing_file(request.output) as temporary, open(temporary, "wb") as file:
        for chunk in chunks(read_lines(request.source), request.chunk):
            part = parts.read(chunk)
            file.write(b"".join(line + b"\n" for line in part.lines))
            failed += sum(part.header.empty.values())
            joined += len(part.lines)
        if joined != lines:
            raise DataError(
                f"{request.source} had {lines} lines and now has {joined}: restore it, then begin anew"
            )
    return failed
