"""The verbs that make weights: `train`, `average`."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated

import typer

from multistride.cli.options import DirectoryOption, ThreadsOption
from multistride.errors import UsageError
from multistride.shipped import existing

logger = logging.getLogger(__name__)


def train(
    config: Annotated[Path, typer.Argument(help="YAML file, as in examples/ and configs/.")],
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="<key=value>",
            help="Override a setting: section.key=value. Repeatable.",
            rich_help_panel="Input",
        ),
    ] = None,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume",
            help="Resume the run from its last checkpoint, if there is one.",
            rich_help_panel="Input",
        ),
    ] = False,
    threads: ThreadsOption = None,
) -> None:
    """Train a model. Ctrl-C leaves a checkpoint, and --resume continues from it.

    The run directory gets checkpoints, metrics and, as `best`, a model directory for `--model`.

    Example: multistride train examples/multi30k/autoregressive.yaml --set training.updates=100
    """
    from multistride.config import read_config
    from multistride.train.config import RunConfig

    chosen = read_config(config, RunConfig, settings or ())

    from multistride.data.batch import PreparedData
    from multistride.device import set_threads
    from multistride.evaluate.validation import validator
    from multistride.train.loop import train as train_model
    from multistride.train.monitor import Monitor

    set_threads(threads)
    sentences = chosen.training.validate_sentences
    data = PreparedData.load(chosen.data)
    sizes, tokenize = tuple(chosen.groups.sizes), chosen.training.tokenize
    validate = validator(data, sizes, sentences, tokenize)
    monitor = Monitor(chosen.run.name)
    directory = train_model(chosen, validate, monitor, resume)
    monitor.say(f"best checkpoint: {directory.path / 'best'}")


def average(
    models: Annotated[
        list[Path],
        typer.Argument(help="Model directories (or names), or one run directory with --last."),
    ],
    output: DirectoryOption,
    last: Annotated[
        int | None,
        typer.Option(
            min=2, help="Average this many newest checkpoints of a run.", rich_help_panel="Input"
        ),
    ] = None,
) -> None:
    """Average the weights of several checkpoints. A model that is named twice weighs twice as much.

    Example: multistride average runs/many --last 5 --output runs/many/mean
    """
    from multistride.train.average import average_models, newest_checkpoints

    if last is not None and len(models) != 1:
        raise UsageError(f"--last takes one run directory, {len(models)} were given")
    named = newest_checkpoints(models[0], last) if last else [existing(model) for model in models]
    if last:  # an older best may be among them, and newer ones deleted
        logger.info(f"averaging {', '.join(path.name for path in named)} of {models[0]}")
    average_models(named, output)
    logger.info(f"written: {output}")
