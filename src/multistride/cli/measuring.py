"""The verbs that measure: `evaluate` a model, `bench` it against others, `calibrate` it."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from multistride.cli.console import print_json, refuse_shared_files
from multistride.cli.fields import Fields
from multistride.cli.options import (
    Cluster,
    JsonOption,
    Machine,
    ModelOption,
    NeededModelOption,
)
from multistride.decode.options import DecodeOptions
from multistride.errors import DataError, UsageError
from multistride.evaluate.bench.request import BenchOptions
from multistride.evaluate.request import EvaluationRequest
from multistride.report.outputs import Outputs
from multistride.shipped import refuse_to_change

if TYPE_CHECKING:
    from multistride.model.config import TransformerConfig
    from multistride.report.result import Result

logger = logging.getLogger(__name__)

_WAYS = ("mode", "group_size")
"""Options that take several values: every combination is measured."""


def evaluate(
    *,
    model: ModelOption = None,
    request: Annotated[EvaluationRequest, Fields()],
    ways: Annotated[
        tuple[DecodeOptions, ...],
        Fields(
            only=(
                "group_size",
                "mode",
                "threshold",
                "policy",
                "layout",
                "drafts",
                "beam",
                "group_beam",
                "max_tokens",
                "batch_size",
            ),
            several=_WAYS,
        ),
    ],
    machine: Annotated[Machine, Fields()],
    cluster: Annotated[Cluster, Fields()],
    outputs: Annotated[Outputs, Fields(only=("output", "as_json"))],
) -> None:
    """Measure quality, steps and latency of a model by group size.

    One row for every group size and mode, K=1 once. With --task the figures are those of the task,
    and a record without an answer is named on stderr (exit code 4).

    Example: multistride evaluate --model RUN/best --source test.en --reference test.de
    --group-size 1,2,4 --json
    """
    from multistride.cli.sharing import tokens_shared
    from multistride.device import set_threads
    from multistride.evaluate import run
    from multistride.evaluate.settle import settle
    from multistride.report.show import show
    from multistride.tasks.names import task_named

    refuse_shared_files([request.source, request.reference], outputs.files)
    settle(outputs.files)
    set_threads(machine.threads)
    if request.sentences or request.task:
        cluster.refuse("--sentences" if request.sentences else "--task")
    if request.task is None:
        with tokens_shared(cluster, machine, model) as shared:
            result = run.evaluate(request, ways, model, machine.engine, machine.device, shared)
    else:
        task = task_named(request.task)
        result = run.evaluate_task(request, ways, task, model, machine.engine, machine.device)
    show(result, outputs)
    _complete(result)


def _complete(result: Result) -> None:
    """Raise `DataError` if some records have no answer."""
    if failed := result.conditions.get("failed"):
        raise DataError(
            f"{failed} of the records have no answer (named above); they count in no figure"
        )


def bench(
    *,
    model: ModelOption = None,
    options: Annotated[BenchOptions, Fields(several=("batch_sizes", "engines", "against"))],
    ways: Annotated[
        tuple[DecodeOptions, ...],
        Fields(
            only=("group_size", "mode", "threshold"),
            several=_WAYS,
            defaults={"group_size": "1,2,4,8"},
        ),
    ],
    name: Annotated[
        str | None,
        typer.Option(
            help="Title of the result (default: the name of the model or its run).",
            rich_help_panel="Output",
        ),
    ] = None,
    outputs: Annotated[Outputs, Fields()],
) -> None:
    """Compare speed with other programs, measured in turns.

    Every contender gets the same sentences in the same batches and decodes greedily until EOS. A
    ratio above 1 means that we are faster.

    Example: multistride bench --source test.en --reference test.de --against
    own-k1,ctranslate2-int8
    """
    if outputs.picture is not None and options.reference is None:
        raise UsageError(
            "--picture shows quality against time, and no --reference was given: give one, or "
            "leave it out"
        )
    from multistride.evaluate.bench.gate import check_met
    from multistride.evaluate.bench.run import BenchRequest
    from multistride.evaluate.bench.run import bench as measure
    from multistride.evaluate.settle import settle, settled_name
    from multistride.report.show import show
    from multistride.shipped import DEFAULT

    refuse_shared_files([options.source, options.reference], outputs.files)
    settle(outputs.files, options.tokenize, outputs.picture)
    place = model or DEFAULT
    subject = {"model": place, "ways": ways, "name": settled_name(name, place)}
    request = BenchRequest(**options.model_dump(), **subject)
    result = measure(request)
    show(result, outputs)
    check_met(request.requirements(), result)


def calibrate(
    *,
    model: NeededModelOption,
    source: Annotated[
        Path,
        typer.Option(
            help="Source texts that the model was not trained on, one a line; for a classifier, "
            "records with a text and a label.",
            rich_help_panel="Input",
        ),
    ],
    reference: Annotated[
        Path | None,
        typer.Option(
            help="Reference texts, line by line (default: what the model writes at K=1).",
            rich_help_panel="Input",
        ),
    ] = None,
    group_size: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Tokens per step, for classifiers that score labels (default: 1).",
            rich_help_panel="Decoding",
        ),
    ] = None,
    machine: Annotated[Machine, Fields(only=("device", "threads"))],
    as_json: JsonOption = False,
) -> None:
    """Calibrate a model's confidence in its groups, and store the result in its directory.

    Adaptive mode then uses corrected probabilities, and --group-size auto works. For a classifier,
    one temperature is fitted. Prints the calibration error before and after, on held-out sentences.

    Example: multistride calibrate --model RUN/best --source validation.en
    """
    from multistride.device import set_threads
    from multistride.evaluate.settle import settle
    from multistride.model.directory import CALIBRATION, TEMPERATURE, load_config

    config = load_config(model)
    classifier = config.classifier is not None
    _check_calibrated(model, config, reference, group_size)
    settle([model / (TEMPERATURE if classifier else CALIBRATION)])
    set_threads(machine.threads)
    if classifier:
        _calibrate_classifier(model, source, group_size or 1, machine.device, as_json)
    else:
        _calibrate_groups(model, source, reference, machine.device, as_json)


def _check_calibrated(
    model: Path, config: TransformerConfig, reference: Path | None, group_size: int | None
) -> None:
    """Raise `UsageError` for what is not calibrated, or not so."""
    refuse_to_change(model)
    classifier = config.classifier is not None
    if not (classifier or config.encoder_layers):
        raise UsageError(
            f"{model} is a causal model, and what is calibrated are translators and classifiers: "
            "adaptive mode works with it as it is"
        )
    if classifier and reference is not None:
        raise UsageError(
            "--reference is not for classifiers, whose records have the label: leave it out"
        )
    if not classifier and group_size is not None:
        raise UsageError(
            "--group-size is for classifiers, other models are measured at all of theirs: "
            "leave it out"
        )


def _calibrate_groups(
    model: Path, source: Path, reference: Path | None, device: str, as_json: bool
) -> None:
    """Calibrate a model that writes."""
    from multistride.evaluate.calibrate import calibrate as measure
    from multistride.files import write_json
    from multistride.loading import load
    from multistride.model.directory import CALIBRATION
    from multistride.report.cells import Terminal
    from multistride.report.tables import calibration_table

    measured = measure(load(model, device, "eager"), model, source, reference).model_dump(
        mode="json"
    )
    write_json(model / CALIBRATION, measured)
    logger.info(f"written: {model / CALIBRATION}")
    if as_json:
        print_json(measured)
    else:
        Terminal().print(calibration_table(measured).terminal())


def _calibrate_classifier(
    model: Path, source: Path, group_size: int, device: str, as_json: bool
) -> None:
    """Calibrate a classifier."""
    from multistride.evaluate.confidence import calibrate_classifier
    from multistride.files import write_json
    from multistride.model.directory import TEMPERATURE
    from multistride.tasks.classification.classifier import Classifier

    classifier = Classifier.load(model, device, group_size, calibrated=False)
    measured = calibrate_classifier(classifier, model, source)
    write_json(model / TEMPERATURE, measured.model_dump(mode="json"))
    logger.info(f"written: {model / TEMPERATURE}")
    if as_json:
        print_json(measured.model_dump(mode="json"))
    else:
        before, after = 100 * measured.error_before, 100 * measured.error_after
        print(
            f"temperature {measured.temperature:.2f}: calibration error {before:.1f} % before, "
            f"{after:.1f} % after"
        )
