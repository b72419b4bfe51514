"""One way to measure: ways of decoding x a task -> one `Result`.

A `Subject` is a task with its data read and its model open. `measure` lets it write in every way,
times single inputs in turns, and makes one row of each way. What the figures are, the subject
knows.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, Protocol, TypeVar

from multistride.evaluate.conditions import now
from multistride.evaluate.speed import in_turns, spread
from multistride.evaluate.ways import Way
from multistride.report.result import Example, Kind, Place, Result, Row

logger = logging.getLogger(__name__)

I = TypeVar("I")  # noqa: E741, an input
O = TypeVar("O")  # noqa: E741, an output


@dataclass(frozen=True)
class Run(Generic[O]):
    """The outputs of one way for all inputs, and the seconds they took, in batches."""

    way: Way
    outputs: Sequence[O]
    seconds: float


class Subject(Protocol[I, O]):
    """A task with a model behind it, ready to be measured: everything is read and checked."""

    @property
    def kind(self) -> Kind:
        """Return the kind of the result."""

    @property
    def unit(self) -> str:
        """Return the name of one input: sentence, text or record."""

    @property
    def task(self) -> str | None:
        """Return the name of the task, of kind task."""

    @property
    def ways(self) -> Sequence[Way]:
        """Return the ways of decoding, in the order of the rows."""

    @property
    def inputs(self) -> Sequence[I]:
        """Return the inputs of the model."""

    def write(self, way: Way, inputs: Sequence[I]) -> Sequence[O]:
        """Return the output for each input."""

    def greedy(self) -> Way | None:
        """Return greedy K=1, if outputs are compared with it even where it is no row."""

    def figures(self, run: Run[O], greedy: Run[O] | None) -> dict[str, Any]:
        """Return the fields of a row, less the way and its latency."""

    def conditions(self, runs: Sequence[Run[O]], timed: int) -> dict[str, Any]:
        """Return what the result was measured under; `timed` inputs were timed alone."""

    def examples(self, runs: Sequence[Run[O]]) -> Sequence[Example]:
        """Return some inputs and what every way wrote for them."""

    def places(self) -> Sequence[Place]:
        """Return what each place of a group is worth; nothing where that is not measured."""


def measure(subject: Subject[I, O], name: str, timed: int) -> Result:
    """Let a task run in every way and measure it; `timed` inputs are timed alone, in turns."""
    runs = [_run(subject, way) for way in subject.ways]
    chosen = [subject.inputs[index] for index in spread(len(subject.inputs), timed)]
    logger.info(f"timing {len(chosen)} {subject.unit}s alone")
    latencies = in_turns(
        [partial(_alone, subject, run.way) for run in runs],
        chosen,
    )
    greedy = _greedy(subject, runs)
    rows = [
        Row.model_validate(
            {
                **({"model": run.way.whose} if subject.task else {}),
                "group_size": run.way.options.group_size,
                "mode": run.way.options.mode,
                "beam": run.way.options.beam,
                f"ms_per_{subject.unit}_p50": latency.p50,
                f"ms_per_{subject.unit}_p95": latency.p95,
                **subject.figures(run, greedy),
            }
        )
        for run, latency in zip(runs, latencies, strict=True)
    ]
    optional = {"task": subject.task, "places": tuple(subject.places())}
    return Result.model_validate(
        {
            "name": name,
            "kind": subject.kind,
            "created": now(),
            "conditions": subject.conditions(runs, len(chosen)),
            "rows": tuple(rows),
            "examples": tuple(subject.examples(runs)),
            **{key: value for key, value in optional.items() if value},
        }
    )


def _run(subject: Subject[I, O], way: Way) -> Run[O]:
    logger.info(f"{way}: {len(subject.inputs)} {subject.unit}s")
    began = time.perf_counter()
    outputs = subject.write(way, subject.inputs)
    return Run(way, outputs, time.perf_counter() - began)


def _alone(subject: Subject[I, O], way: Way, example: I) -> object:
    return subject.write(way, [example])


def _greedy(subject: Subject[I, O], runs: Sequence[Run[O]]) -> Run[O] | None:
    """Return what greedy K=1 wrote: one of the runs, else one that is made for it."""
    for run in runs:
        if run.way.greedy:
            return run
    way = subject.greedy()
    return None if way is None else _run(subject, way)
