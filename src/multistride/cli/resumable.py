"""Translate a file so that the work can stop at any moment and resume: `translate --input
--output`.

The parts are those of distillation (`parts.py`): each is written whole, knows its source lines and
the settings that made it, and is made again where it is damaged.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from multistride.cli.chunks import Decode, Decoded, lines_work
from multistride.cli.console import noting_none
from multistride.cli.lines import EMPTY_LINE, line_of
from multistride.cli.options import LineFormat, Lines
from multistride.cluster.spread import here
from multistride.cpu import cpu_name
from multistride.data.corpus import text_lines
from multistride.data.vocab import Vocabulary
from multistride.decode.options import DecodeOptions
from multistride.decode.phrases import PHRASES
from multistride.errors import DataError, Interrupted, UsageError
from multistride.files import (
    check_writable,
    compressing,
    is_stream,
    replacing_file,
    same_file,
    sha256,
)
from multistride.model.directory import CALIBRATION, CONFIG, weights_digest
from multistride.parts import Chunk, PartsDirectory
from multistride.progress import ProgressLine
from multistride.tasks.sentence_windows import WindowTranslator
from multistride.tasks.sentences import SentenceTranslator
from multistride.text_model import TextModel
from multistride.version import __version__

logger = logging.getLogger(__name__)

FORMAT = 1


@dataclass(frozen=True)
class FileRequest:
    """A file to translate; `model` is the directory that the translator was read from.

    A part has `chunk` lines, and some more where that would cut a window of lines.
    """

    model: Path
    source: Path
    output: Path
    options: DecodeOptions
    form: LineFormat
    chunk: int

    @classmethod
    def of(cls, lines: Lines, model: Path, options: DecodeOptions) -> FileRequest:
        """Return the request that the options of the command line make."""
        assert lines.source is not None
        assert lines.output is not None
        chunk = lines.buffer or 1024
        return cls(model, lines.source, lines.output, options, lines.form, chunk)


def is_resumable(lines: Lines) -> bool:
    """Return whether lines go from a file, which can be read again, to a file."""
    if lines.source is None or lines.output is None or lines.stream or lines.trace:
        return False
    return not any(map(is_stream, (lines.source, lines.output)))


def translate_file(
    translator: TextModel,
    request: FileRequest,
    decode: Decode | None = None,
    progress: ProgressLine | None = None,
) -> int:
    """Write `request.output`, line by line; return how many lines have no translation.

    `decode` lets others do the work; None: `translator` does it here.
    Called again after any kind of end, it resumes with the parts that are done. Raises `UsageError`
    for an output that is also read or for parts that other settings began, `DataError` for a file
    that cannot be read or changes meanwhile, and `Interrupted` after Ctrl-C.
    """
    source, output = request.source, request.output
    if same_file(source, output):
        raise UsageError(f"{output} is also read: name another output")
    if output.is_dir():
        raise UsageError(f"{output} is a directory, the output is a file: name another output")
    check_writable(output)
    sizes = list(noting_none(_part_sizes(translator, request), source))
    parts = PartsDirectory(output)
    try:
        with parts.opened(_plan(translator, request, sum(sizes))):
            work = decode or partial(here, lambda: lines_work(translator, request.options))
            progress = progress or ProgressLine("translate", "line")
            _write_parts(translator.vocabulary, request, parts, sizes, work, progress)
            failed = _join(request, parts, sizes)
            parts.discard()
    except KeyboardInterrupt as error:
        raise Interrupted(
            "stopped; nothing that is done is lost: the same command resumes"
        ) from error
    return failed


def _part_sizes(translator: TextModel, request: FileRequest) -> Iterator[int]:
    """Yield how many lines each part has."""
    lines = text_lines(request.source)
    if isinstance(translator, WindowTranslator):
        for windows in translator.whole_windows(lines, request.chunk):
            yield sum(map(len, windows))
        return
    while size := sum(1 for _ in islice(lines, request.chunk)):
        yield size


def _chunks(request: FileRequest, sizes: list[int]) -> Iterator[Chunk]:
    """Yield the source in chunks of these sizes; a last one has what was appended meanwhile."""
    lines, first = text_lines(request.source), 1
    for number, size in enumerate(sizes):
        yield Chunk(number, first, list(islice(lines, size)))
        first += size
    if more := list(islice(lines, 1)):
        yield Chunk(len(sizes), first, more)


def _plan(translator: TextModel, request: FileRequest, lines: int) -> dict[str, Any]:
    """Return all that decides what is written; parts made under different plans are never mixed."""
    return {
        "format": FORMAT,
        "multistride": __version__,
        "source_sha256": sha256(request.source),
        "lines": lines,
        "model_sha256": weights_digest(request.model),
        "model_config_sha256": sha256(request.model / CONFIG),
        "vocabulary_sha256": translator.vocabulary.digest(),
        **_computing(translator, request.model),
        "form": request.form,
        "chunk": request.chunk,
        **_units(translator),
        **request.options.model_dump(mode="json"),
    }


def _units(translator: TextModel) -> dict[str, Any]:
    """Return what is translated at once, where that is not a line."""
    if isinstance(translator, WindowTranslator):
        return {"window": translator.sentences}
    return {"sentences": True} if isinstance(translator, SentenceTranslator) else {}


def _computing(translator: TextModel, model: Path) -> dict[str, Any]:
    """Return what computes, and what was measured about the model: both decide what is written."""
    engine = translator.engine
    measured = {
        f"{name}_sha256": sha256(model / name) if (model / name).is_file() else None
        for name in (CALIBRATION, PHRASES)
    }
    device = getattr(engine, "device", "cpu")
    return {
        "engine": engine.name,
        "precision": getattr(engine, "precision", None),
        "kernels": f"torch {torch.__version__}, {torch.device(device).type}, {cpu_name()}",
        **measured,
    }


def _write_parts(
    vocabulary: Vocabulary,
    request: FileRequest,
    parts: PartsDirectory,
    sizes: list[int],
    decode: Decode,
    progress: ProgressLine,
) -> None:
    """Translate every chunk that has no good part yet."""
    chunks = _chunks(request, sizes)
    missing = {chunk.number for chunk in chunks if not parts.is_done(chunk)}
    lines = sum(sizes)
    done = sum(size for number, size in enumerate(sizes) if number not in missing)
    if done:
        logger.info(
            f"{done:,} of {lines:,} lines are done already (those that failed were named before)"
        )
    open_chunks = (chunk for chunk in _chunks(request, sizes) if chunk.number in missing)
    with progress.showing(lines, done), closing(decode(open_chunks)) as decoded:
        for chunk, result in decoded:
            _write_part(vocabulary, request.form, parts, chunk, result)
            done += len(chunk.lines)
            progress.reached(done, f"{progress.rate:,.1f} lines/s")


def _write_part(
    vocabulary: Vocabulary, form: LineFormat, parts: PartsDirectory, chunk: Chunk, decoded: Decoded
) -> None:
    texts, problems, unfinished = [], 0, 0
    for line, result in enumerate(decoded.translations, start=chunk.first):
        if result.problem:
            problems += 1
            logger.warning(EMPTY_LINE, line, result.problem)
        unfinished += result.ending == "limit"
        texts.append(line_of(result, vocabulary, form))
    empty = {"problem": problems} if problems else {}
    parts.write(chunk, texts, empty, unfinished, decoded.seconds)


def _join(request: FileRequest, parts: PartsDirectory, sizes: list[int]) -> int:
    """Join the parts, each checked against its source lines; return how many lines failed."""
    failed = joined = 0
    with (
        replacing_file(request.output) as temporary,
        compressing(temporary, request.output) as file,
    ):
        for chunk in _chunks(request, sizes):
            part = parts.read(chunk)
            file.write(b"".join(line + b"\n" for line in part.lines))
            failed += sum(part.header.empty.values())
            joined += len(part.lines)
        if joined != sum(sizes):
            raise DataError(
                f"{request.source} had {sum(sizes)} lines and now has {joined}: restore it, then "
                "begin anew"
            )
    return failed
