"""`translate` without PyTorch, where that writes the same: most of the time of a short start."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from multistride.cli.console import (
    reading,
    refuse_file_of_stdout,
    refuse_shared_files,
    tracing,
    writing,
)
from multistride.cli.options import Cluster, Lines, Machine, group_size_or_auto, note_untrained
from multistride.cli.quiet import uncollected
from multistride.decode.options import DecodeOptions
from multistride.errors import UserError
from multistride.shipped import directory

if TYPE_CHECKING:
    from multistride.light import LightPlan, LightTranslator


def translated_light(
    model: Path | None,
    lines: Lines,
    size: str,
    decoding: DecodeOptions,
    machine: Machine,
    cluster: Cluster,
) -> int | None:
    """Translate lines and return how many failed; None where that takes PyTorch."""
    refuse_shared_files([lines.source], [lines.output, lines.trace])
    if lines.trace is not None and lines.output is None:
        refuse_file_of_stdout(lines.trace)
    with uncollected():
        light = light_translator(model, lines, size, decoding, machine, cluster)
    if light is None:
        return None
    from multistride.cli.lines import Sink, write_own

    translator, plan = light
    note_untrained(plan.options.group_size, translator.config.group_sizes)
    with (
        reading(lines.source) as texts,
        writing(lines.output) as output,
        tracing(lines.trace) as trace,
    ):
        sink = Sink(output, lines.form, trace, buffered(lines))
        return write_own(translator, texts, plan, sink)


def buffered(lines: Lines) -> int:
    """Return how many lines are read before the first result: from a terminal one."""
    typed = lines.source is None and sys.stdin.isatty()
    return lines.buffer or (1 if typed else 1024)


def light_translator(
    model: Path | None,
    lines: Lines,
    size: str,
    decoding: DecodeOptions,
    machine: Machine,
    cluster: Cluster,
) -> tuple[LightTranslator, LightPlan] | None:
    """Return a translator without PyTorch, and its plan; None where the ordinary one is needed.

    That is so where its graphs were not kept yet, or where anything but whole greedy groups is
    asked for; and for every mistake, which the ordinary translator names.
    """
    resumable = lines.source is not None and lines.output is not None
    if cluster != Cluster() or lines.stream or resumable or size == "auto":
        return None
    try:
        from multistride.cpu import check_threads
        from multistride.light import LightPlan, LightTranslator, suffices, suits

        given = {name: getattr(decoding, name) for name in decoding.model_fields_set}
        options = DecodeOptions.made(**{**given, "group_size": group_size_or_auto(size)})
        if not (suits(machine.engine) and suffices(machine.device, options)):
            return None
        if machine.threads is not None:
            check_threads(machine.threads)
        opened = LightTranslator.opened(directory(model), machine.engine, machine.threads, options)
        if opened is None:
            return None
        return opened, LightPlan(options.checked(opened.config))
    except (ImportError, UserError):
        return None
