"""Averages of weights: while training goes on, and over checkpoints afterwards."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import torch
from torch import Tensor, nn

from multistride.errors import DataError, UsageError
from multistride.files import refuse_foreign, refuse_inputs
from multistride.model.directory import load_provenance, refuse_made, refuse_models
from multistride.model.transformer import Transformer
from multistride.model.weights import load_model, save_model
from multistride.rundir import RunDirectory
from multistride.untrusted import read_text


class MovingAverage:
    """An exponential moving average (EMA) of a model's weights (Polyak and Juditsky 1992; the decay
    warms up).

    `other` holds the averaged weights; inside `in_place` the model has them and `other` the trained
    ones.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.model, self.decay = model, decay
        self.other = {name: weights.detach().clone() for name, weights in model.named_parameters()}

    @torch.no_grad()
    def take(self, update: int) -> None:
        """Move towards the weights after update number `update`, early on faster than `decay`
        says.
        """
        share = 1 - min(self.decay, (1 + update) / (10 + update))
        for name, weights in self.model.named_parameters():
            # The model may have moved to a GPU since this average was made.
            self.other[name] = self.other[name].to(weights.device).lerp_(weights, share)

    @torch.no_grad()
    def train_on(self, weights: dict[str, Tensor]) -> None:
        """Go on from a checkpoint: the model has the averaged weights, and these are the trained
        ones.
        """
        for name, trained in self.model.named_parameters():
            self.other[name] = trained.clone()
            trained.copy_(weights[name])

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Exchange the averaged weights and the trained ones, and exchange them back."""
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    @torch.no_grad()
    def _exchange(self) -> None:
        for name, weights in self.model.named_parameters():
            kept = weights.clone()
            weights.copy_(self.other[name])
            self.other[name] = kept


def average_models(directories: Sequence[Path], output: Path) -> None:
    """Write the model whose weights are the mean of those of other models (Vaswani et al. 2017,
    section 6.1). One that is named twice weighs twice as much.

    Raises `UsageError` for fewer than two, `DataError` if they differ in more than their weights.
    """
    if len(directories) < 2:
        raise UsageError(
            f"{len(directories)} model directory was given, an average needs 2: name more "
            "checkpoints"
        )
    refuse_inputs(output, directories)
    refuse_foreign(output, "model")
    refuse_models(output, "average_of", "an average")
    refuse_made(output, "an average")
    model, vocabulary = load_model(directories[0])
    first = model.state_dict()
    sums = {
        name: weights.double() for name, weights in first.items() if weights.is_floating_point()
    }
    for directory in directories[1:]:
        other, known = load_model(directory)
        _check_alike(directories[0], model, directory, other)
        model.config = other.config  # the last model's default of decoding counts
        if known.digest() != vocabulary.digest():
            raise DataError(
                f"{directories[0]} and {directory} have different vocabularies: average one run's "
                "models"
            )
        found = other.state_dict()
        if not all(
            torch.equal(weights, found[name]) for name, weights in first.items() if name not in sums
        ):
            raise DataError(
                f"{directories[0]} and {directory} know different words: average one run's models"
            )
        for name in sums:
            sums[name] += found[name].double()
    mean: dict[str, Tensor] = {
        name: (total / len(directories)).float() for name, total in sums.items()
    }
    model.load_state_dict({**first, **mean})
    names = [str(directory) for directory in directories]
    provenance = {**load_provenance(directories[-1]), "average_of": names}
    path, card = directories[-1] / "README.md", ""
    with suppress(DataError):  # a card that cannot be read is left out
        card = read_text(path) if path.is_file() else ""
    save_model(
        output,
        model,
        vocabulary,
        provenance,
        f"{card}\nThe weights are the mean of: {', '.join(names)}. Everything else on "
        f"this card describes {names[-1]}.\n",
    )


def newest_checkpoints(run: Path, count: int) -> list[Path]:
    """The newest `count` checkpoints of a run directory, oldest first. Raises `DataError` if there
    are fewer.
    """
    if not run.is_dir():
        raise DataError(f"{run} is no directory: give the run directory of `multistride train`")
    found = RunDirectory(run).by_age()
    if len(found) < count:
        raise DataError(
            f"{run} holds {len(found)} checkpoints, {count} were asked for: train with "
            f"training.keep_checkpoints={count} or average fewer"
        )
    return found[-count:]


def _check_alike(first: Path, model: Transformer, second: Path, other: Transformer) -> None:
    mine, theirs = model.config.model_dump(), other.config.model_dump()
    differing = [
        f"{key} is {mine[key]} and {theirs[key]}"
        for key in mine
        if mine[key] != theirs[key] and key != "group_beam"
    ]
    if differing:
        raise DataError(
            f"{first} and {second} differ ({'; '.join(differing)}): average the models of one run"
        )
