"""`multistride distill`: a corpus translated by a teacher, line for line, whatever happens
meanwhile.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from multistride.cluster.spread import Spread, here
from multistride.data.corpus import Unreadable, read_lines, read_parallel
from multistride.device import set_threads
from multistride.distill.config import DistillConfig
from multistride.distill.continuing import continuer
from multistride.distill.opening import open_teacher
from multistride.distill.teacher import Teacher, Translations
from multistride.errors import DataError, Interrupted, UsageError
from multistride.files import (
    check_writable,
    compressing,
    refuse_inputs,
    refuse_streams,
    replacing_file,
    sha256,
    write_json,
)
from multistride.metrics.quality import measure_quality
from multistride.model.directory import CONFIG, WEIGHTS, load_config
from multistride.parts import Chunk, PartsDirectory, chunks
from multistride.progress import ProgressLine
from multistride.untrusted import read_object
from multistride.version import __version__

logger = logging.getLogger(__name__)

FORMAT = 1


_Timed = tuple[Translations, float]
"""Translations, and the seconds that they took."""

Shared = Callable[[Iterable[Chunk]], Generator[tuple[Chunk, _Timed], None, None]]
"""Yields every chunk with its translations, in order."""


@dataclass(frozen=True)
class _Opening:
    """Opens the teacher: here, or on a worker, where it returns the work."""

    config: DistillConfig
    causal: bool
    device: str
    threads: int

    def teacher(self) -> Teacher:
        """Return the teacher, open."""
        if self.causal:
            return continuer(self.config, self.device)
        return open_teacher(self.config, self.device, self.threads)

    def elsewhere(self, engine: str) -> _Opening:
        """Return the opening for other processes: with the engine that was found here."""
        settled = {"engine": engine, "model": self.config.model.absolute()}
        return replace(self, config=self.config.model_copy(update=settled))

    def __call__(self) -> Callable[[Chunk], _Timed]:
        """Return the function that translates a chunk."""
        set_threads(self.threads)
        return _work(self.teacher())


@dataclass
class _Job:
    """State shared by the steps of one distillation."""

    config: DistillConfig
    teacher: Teacher
    parts: PartsDirectory
    lines: int
    shared: Shared | None = None
    """Lets others do the work; None: this process does it."""

    def chunks(self) -> Iterator[Chunk]:
        """The source in chunks."""
        return chunks(read_lines(self.config.source), self.config.chunk)


def distill(
    config: DistillConfig,
    progress: ProgressLine | None = None,
    device: str = "auto",
    threads: int = 1,
    spread: Spread | None = None,
) -> dict[str, Any]:
    """Write `config.output` and, beside it, the manifest OUTPUT.json, which is also returned.

    `spread` lets others do the work; None: this process does it.

    The work is done in parts; called again after any kind of end, it goes on with them, and does
    nothing where all is done. Raises `DataError` for files that cannot be read or do not align,
    `UsageError` for an output that is there already or parts that other settings began,
    `MissingExtraError` for an engine that is not installed, and `Interrupted` after Ctrl-C.
    """
    causal = not load_config(config.model).encoder_layers
    config = config.for_model(causal)
    parts = PartsDirectory(config.output)
    _refuse_paths(config)
    lines = _count_lines(config)
    validation = _read_validation(config)
    opening = _Opening(config, causal, device, threads)
    teacher = opening.teacher()
    elsewhere = opening.elsewhere(teacher.engine)
    shared = None if spread is None else partial(spread, elsewhere)
    job = _Job(config, teacher, parts, lines, shared)
    plan = _plan(job)
    parts.sweep()
    if not config.overwrite and (manifest := _finished(config, plan)):
        if parts.path.exists():  # a kill came between the manifest and this
            with parts.opened(plan):
                parts.discard()
        logger.info(f"{config.output} is there already, made with these settings: nothing to do")
        return manifest
    try:
        with parts.opened(plan):
            quality = _measure_teacher(job, *validation) if validation else None
            _write_parts(job, progress or ProgressLine("distill", "sentence"))
            manifest = {**plan, **_names(config), "threads": threads, "validation": quality}
            manifest = _join(job, manifest)
            parts.discard()
    except KeyboardInterrupt as error:
        raise Interrupted(
            "stopped; nothing that is done is lost: the same command resumes"
        ) from error
    return manifest


def manifest_path(output: Path) -> Path:
    """Return the path of the manifest of an output."""
    return output.with_name(output.name + ".json")


def _refuse_paths(config: DistillConfig) -> None:
    output = config.output
    inputs = (config.source, config.target, config.validation_source, config.validation_reference)
    if output.is_dir():
        raise UsageError(f"{output} is a directory, the output is a file: name another output")
    for written in (output, manifest_path(output)):
        refuse_inputs(written, [path for path in inputs if path is not None])
    refuse_streams(inputs, "distill reads its inputs more than once")
    refuse_streams([output], "distill writes parts beside its output")
    for written in (output, manifest_path(output)):
        check_writable(written)


def _finished(config: DistillConfig, plan: dict[str, Any]) -> dict[str, Any] | None:
    """The manifest of an output that this plan made; None if there is no output.

    Raises `UsageError` for an output that came about otherwise, or for a file in the manifest's
    place that is none.
    """
    place = manifest_path(config.output)
    try:
        manifest = read_object(place) if place.exists() else {}
    except DataError:
        manifest = {}
    if place.exists() and not manifest.keys() >= {"format", "output_sha256"}:
        raise UsageError(
            f"{place} is there, which the manifest of {config.output} would replace: name another "
            "output, or add --overwrite"
        )
    if not config.output.exists():
        return None
    if manifest.items() >= plan.items() and manifest.get("output_sha256") == sha256(config.output):
        return manifest
    raise UsageError(
        f"{config.output} is there already, made otherwise: add --overwrite to replace it, or name "
        "another output"
    )


def _count_lines(config: DistillConfig) -> int:
    """The lines of the source. Raises `DataError` if the target has more or fewer, before any work
    is done.
    """
    lines = sum(1 for _ in read_lines(config.source))
    if config.target is not None:
        targets = sum(1 for _ in read_lines(config.target))
        if targets != lines:
            raise DataError(
                f"{config.source} has {lines} lines and {config.target} has {targets}: "
                "line n of one must translate line n of the other, so give two files of the same "
                "length"
            )
    return lines


def _read_validation(config: DistillConfig) -> tuple[list[bytes], list[str]] | None:
    if config.validation_source is None or config.validation_reference is None:
        return None
    sources, references = [], []
    for line, record in enumerate(
        read_parallel(config.validation_source, config.validation_reference), start=1
    ):
        if isinstance(record, Unreadable):
            files = f"{config.validation_source} and {config.validation_reference}"
            raise DataError(f"{files}: line {line}: {record.reason}: repair it")
        sources.append(record.source.encode())
        references.append(record.target)
    return sources, references


def _plan(job: _Job) -> dict[str, Any]:
    """All that decides what is written; parts made under another plan are never mixed with
    these.
    """
    config, teacher = job.config, job.teacher
    return {
        "format": FORMAT,
        "multistride": __version__,
        "source_sha256": sha256(config.source),
        "lines": job.lines,
        "teacher_sha256": sha256(config.model / WEIGHTS),
        "teacher_config_sha256": sha256(config.model / CONFIG),
        "vocabulary_sha256": teacher.translator.vocabulary.digest(),
        "engine": teacher.engine,
        "compute_type": teacher.compute_type,
        "library": teacher.library,
        "beam": config.beam,
        "length_penalty": config.length_penalty,
        "batch_size": config.batch_size,
        "chunk": config.chunk,
        **job.teacher.choices(config),
    }


def _names(config: DistillConfig) -> dict[str, Any]:
    names = (
        ("teacher", config.model),
        ("source", config.source),
        ("output", config.output),
        ("target", config.target),
    )
    target_hash = {"target_sha256": sha256(config.target)} if config.target is not None else {}
    return {**{name: None if path is None else str(path) for name, path in names}, **target_hash}


def _measure_teacher(job: _Job, sources: list[bytes], references: list[str]) -> dict[str, Any]:
    """BLEU of the teacher, by the engine and beam that write the corpus."""
    quality = measure_quality(job.teacher.translate(sources).texts, references)
    logger.info(
        f"teacher: BLEU {quality.bleu:.2f} on {len(sources)} validation sentences, "
        f"{quality.bleu_signature}"
    )
    config = job.config
    assert config.validation_source is not None
    assert config.validation_reference is not None
    return {
        "source": str(config.validation_source),
        "source_sha256": sha256(config.validation_source),
        "reference": str(config.validation_reference),
        "reference_sha256": sha256(config.validation_reference),
        "sentences": len(sources),
        "bleu": quality.bleu,
        "bleu_signature": quality.bleu_signature,
        "chrf": quality.chrf,
        "chrf_signature": quality.chrf_signature,
        "length_ratio": quality.length_ratio,
    }


def _write_parts(job: _Job, progress: ProgressLine) -> None:
    """Translate every chunk that has no good part yet."""
    missing = {
        chunk.number: len(chunk.lines) for chunk in job.chunks() if not job.parts.is_done(chunk)
    }
    done = job.lines - sum(missing.values())
    if done:
        logger.info(f"{done:,} of {job.lines:,} lines are done already")
    with progress.showing(job.lines, done):

        def advance(count: int) -> None:
            nonlocal done
            done += count
            progress.reached(done, f"{progress.rate:,.1f} sentences/s")

        open_chunks = (chunk for chunk in job.chunks() if chunk.number in missing)
        work = job.shared or partial(here, lambda: _work(job.teacher, advance))
        with closing(work(open_chunks)) as results:
            for chunk, (translations, seconds) in results:
                job.parts.write(chunk, *translations, seconds)
                if job.shared is not None:
                    advance(len(chunk.lines))


def _work(
    teacher: Teacher, progress: Callable[[int], None] = lambda count: None
) -> Callable[[Chunk], _Timed]:
    """Return the function that translates a chunk with a teacher that is open."""

    def work(chunk: Chunk) -> _Timed:
        began = time.perf_counter()
        translations = teacher.translate(chunk.lines, progress)
        return translations, time.perf_counter() - began

    return work


def _join(job: _Job, manifest: dict[str, Any]) -> dict[str, Any]:
    """Check every part against its source lines, put them together, and move the output and its
    manifest into place.

    The parts stay until both are in place, so that a crash in between costs nothing.
    """
    config = job.config
    tally = job.teacher.tally()
    targets = read_lines(config.target) if config.target is not None else None
    joined = 0
    with replacing_file(config.output) as temporary:
        with compressing(temporary, config.output) as file:
            for chunk in job.chunks():
                part = job.parts.read(chunk)
                file.write(b"".join(line + b"\n" for line in part.lines))
                tally.add(
                    part,
                    chunk.lines,
                    list(islice(targets, len(part.lines))) if targets is not None else None,
                )
                joined += len(part.lines)
            if joined != job.lines:
                raise DataError(
                    f"{config.source} had {job.lines} lines and now has {joined}: "
                    "restore it, then begin anew"
                )
        facts = {**tally.facts(config.target is not None), "output_sha256": sha256(temporary)}
        manifest = {**manifest, **facts}
        # First the manifest: it tells an output of this plan from another file of that name.
        write_json(manifest_path(config.output), manifest)
    return manifest
