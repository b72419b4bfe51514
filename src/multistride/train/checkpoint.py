"""Checkpoints: a model directory, and beside the model all that an exact continuation needs."""

from __future__ import annotations

import io
from dataclasses import asdict, astuple, dataclass, field
from pathlib import Path
from typing import Any

import torch

from multistride.errors import DataError
from multistride.files import RESUMED
from multistride.train.average import MovingAverage
from multistride.train.sharding import divided_state


@dataclass(frozen=True)
class Sums:
    """Sums between two lines of the metrics; losses in nats over all labels."""

    updates: int = 0
    labels: int = 0
    smoothed: float = 0.0
    cross_entropy: float = 0.0
    norm: float = 0.0
    seconds: float = 0.0

    def __add__(self, other: Sums) -> Sums:
        return Sums(
            *(mine + theirs for mine, theirs in zip(astuple(self), astuple(other), strict=True))
        )


@dataclass
class Progress:
    """Position of a run.

    `batch` counts the used batches of the epoch, `since` the open log line. `best` is the highest
    score, `best_loss` the validation loss beside it, and `best_update` when that was; `validated`
    is the last update that was validated.
    """

    update: int = 0
    epoch: int = 0
    batch: int = 0
    best: float = float("-inf")
    best_loss: float = float("inf")
    best_update: int | None = None
    validated: int = 0
    seconds: float = 0.0
    since: Sums = field(default_factory=Sums)

    def forget_best(self) -> None:
        """Let the next validation be the best: the checkpoint that was is gone."""
        self.best, self.best_loss, self.best_update = float("-inf"), float("inf"), None


def save_state(
    directory: Path,
    optimizer: dict[str, Any],
    progress: Progress,
    average: MovingAverage | None = None,
) -> None:
    """Write the optimiser's state (whole tensors) and progress; the trained weights too where there
    is an average.
    """
    state = {
        "optimizer": optimizer,
        "progress": asdict(progress),
        "trained": average.other if average is not None else {},
    }
    serialised = io.BytesIO()
    torch.save(state, serialised)
    (directory / RESUMED).write_bytes(serialised.getbuffer())


def load_state(
    directory: Path, optimizer: torch.optim.Optimizer, average: MovingAverage | None = None
) -> Progress:
    """Restore what `save_state` wrote. Only tensors and plain values are read, never code."""
    path = directory / RESUMED
    try:
        state: dict[str, Any] = torch.load(path, weights_only=True, map_location="cpu")
        optimizer.load_state_dict(divided_state(state["optimizer"], optimizer))
        found = {"validated": state["progress"]["update"], **state["progress"]}  # or older
        progress = Progress(**{**found, "since": Sums(**found["since"])})
        if average is not None:
            average.train_on(state["trained"])
    except Exception as error:  # the unpickler raises whatever a damaged stream leads to
        reason = type(error).__name__
        raise DataError(
            f"{path} cannot be resumed from, it is damaged ({reason}): delete {directory} to go on "
            "from an older one"
        ) from error
    return progress
