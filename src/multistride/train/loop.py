"""Training, from the first update to the last, or from where a run was stopped.

One loop serves every mixture of layouts; autoregressive training is the mixture {1: 1.0}. It stands
on `accelerate` for devices, precision and processes, and never imports decoding: it is handed a
`validate` function.
"""

from __future__ import annotations

import copy
import math
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from pydantic import ValidationError
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from multistride.data.batch import PreparedData, collate, token_batches
from multistride.device import is_out_of_memory, keep_few_kernels, pick_device, pick_precision
from multistride.errors import Interrupted, UserError
from multistride.files import write_json
from multistride.model.adapters import freeze_all_but_drafting
from multistride.model.directory import weights_digest
from multistride.model.transformer import Transformer
from multistride.model.weights import save_model
from multistride.rundir import Asked, RunDirectory
from multistride.shipped import directory
from multistride.train.average import MovingAverage
from multistride.train.card import model_card
from multistride.train.checkpoint import Progress, Sums, load_state, save_state
from multistride.train.config import RunConfig, TrainingConfig
from multistride.train.feed import Feed, Piece
from multistride.train.interrupt import StopRequest, stop_on_signal
from multistride.train.kinds import (
    check_adapted,
    check_idle,
    check_lengths,
    check_predicted,
    drawer,
    objective,
    resumed,
    trained_splits,
    wide_logits_of,
)
from multistride.train.layouts import LayoutDrawer, TrainingPass
from multistride.train.monitor import Monitor
from multistride.train.optimizer import build_optimizer, clip_gradients
from multistride.train.schedule import learning_rate
from multistride.train.sharding import divide, whole
from multistride.train.trunk import TrunkStates
from multistride.train.warmstart import first_model
from multistride.train.windows import WindowDrawer, WindowPass

Validate = Callable[[Transformer], dict[str, float]]
"""Decodes validation sentences; returns metrics, one of them `score` (higher is better)."""

Pass: TypeAlias = TrainingPass | WindowPass

Relaid: TypeAlias = Callable[[LayoutDrawer | WindowDrawer], LayoutDrawer | WindowDrawer]
"""The drawer of layouts that a configuration asks for, to the one that is used."""

NOT_FINITE = "not_finite.json"
"""The file of a run directory that says which pairs an update held whose loss was no number."""

OUT_OF_MEMORY = "out_of_memory.json"
"""The file of a run directory that says at which update memory was too small."""


def train(
    config: RunConfig,
    validate: Validate | None,
    monitor: Monitor,
    resume: bool = False,
    relaid: Relaid | None = None,
) -> RunDirectory:
    """Run the training `config` describes and return its directory; the result is RUN/best.

    `relaid` replaces the object that draws layouts, for experiments with layouts of their own.

    Raises `UsageError` for a run that exists or differs, `DataError` for data or weights that do
    not fit, `Interrupted` after Ctrl-C (with a checkpoint to `resume` from), `UserError` when the
    loss is not finite.
    """
    keep_few_kernels()
    accelerator = _accelerator(config.training)
    with (
        RunDirectory(config.run).held() if accelerator.is_main_process else nullcontext(),
        stop_on_signal() as stop,
    ):
        trainer = Trainer(config, validate, monitor, resume)
        if relaid is not None:
            trainer.layouts = relaid(trainer.layouts)
        return _trained(trainer, stop)


def _trained(trainer: Trainer, stop: StopRequest) -> RunDirectory:
    config = trainer.config
    with (
        trainer.attention(),
        trainer.monitor.showing(config.training.updates, trainer.progress.update),
    ):
        if trainer.wide_logits is not None and trainer.progress.best == -math.inf:
            trainer.validate()  # so that the best is never worse than the wide path alone
        while trainer.progress.update < config.training.updates:
            trainer.update()
            at_end = trainer.progress.update == config.training.updates
            if at_end or trainer.progress.update % config.training.validate_every == 0:
                trainer.validate()
            if trainer.asked_to_stop(stop) and not at_end:
                trainer.save()
                raise Interrupted(
                    f"stopped after update {trainer.progress.update} of {config.training.updates}; "
                    "the checkpoint is written: run the same command with --resume to continue"
                )
        if trainer.progress.validated != trainer.progress.update:
            trainer.validate()  # it was stopped here, and `updates` was lowered to it
    return trainer.run


AFTER_NOT_FINITE = tuple(
    f"training.{name}"
    for name in ("learning_rate", "precision", "clip_norm", "clip_value", "warmup_updates")
)
"""Settings that may change when a run is resumed after a loss that was not finite."""

AFTER_OUT_OF_MEMORY = ("training.tokens_per_batch", "training.accumulate")
"""Settings that may change when a run is resumed after it ran out of memory."""

_AFTER_NOT_FINITE = (
    "lower training.learning_rate or set training.precision=float32 and run it again with "
    "--resume, which continues from the last checkpoint"
)


class Trainer:
    """One run in progress: model, optimiser, feed and where they stand."""

    def __init__(
        self, config: RunConfig, validate: Validate | None, monitor: Monitor, resume: bool
    ) -> None:
        self.config, self._validate, self.monitor = config, validate, monitor
        self.settings = settings = config.training
        self.data = PreparedData.load(config.data)
        self.run = RunDirectory(config.run)
        self.accelerator = _accelerator(settings)
        self.device = self.accelerator.device
        if not self.accelerator.is_main_process:
            monitor.silence()
        torch.manual_seed(settings.seed)
        begun = self.run.last() if resume else None
        self.model = first_model(
            _without_lost_start(config, begun),
            self.data.vocabulary,
            self.data.causal,
            self.data.classes,
        )
        if begun is None:
            check_idle(config, self.model.config)
        with (
            self.accelerator.main_process_first()
        ):  # the others find the run their main process has opened
            if self.accelerator.is_main_process:
                self.data.verify()
                self.run.open(self._asked(), resume)
        last = self.run.last()
        if last is not None:
            self.model = resumed(last, self.model.config)
        if self.accelerator.is_main_process:
            self.run.check_inputs()
        self.data.split("validation")  # what is missing is missed now, not after 500 updates
        self.splits = trained_splits(self.data, self.model.config)
        check_lengths(self.splits, self.data, self.model.config)
        check_predicted(self.splits, self.data, self.model.config)
        self.wide_logits = wide_logits_of(
            self.model, self.splits["train"], self.data.vocabulary, monitor.say
        )
        if self.model.config.adapter is not None:
            check_adapted(settings)
            freeze_all_but_drafting(self.model)
        self.average = (
            MovingAverage(self.model, settings.moving_average) if settings.moving_average else None
        )
        self.sharded = settings.sharding == "full" and self.accelerator.num_processes > 1
        self.copy = copy.deepcopy(self.model) if self.sharded else None
        self.objective, self.optimizer = self._prepared()
        self.progress = (
            load_state(last, self.optimizer, self.average) if last is not None else Progress()
        )
        best = self.progress.best_update
        if best is not None and not self.run.checkpoint(best).is_dir():
            self.progress.forget_best()
        self.layouts = drawer(config, self.model.config)
        frozen = self.model.config.adapter is not None and settings.trunk_memory > 0
        self.trunk = TrunkStates(self.model, settings.trunk_memory) if frozen else None
        self.feed = Feed(
            self.splits["train"],
            self.data.vocabulary,
            settings.tokens_per_batch,
            settings.seed,
            self.layouts.most_read if isinstance(self.layouts, WindowDrawer) else None,
        )
        self._thread = ThreadPoolExecutor(1) if self.device.type == "cuda" else None
        self._ahead: Future[tuple[Progress, list[Piece], list[Pass]]] | None = None
        if self.accelerator.is_main_process:  # from here on nothing is refused
            self.run.begin(config.model_dump(mode="json"))
            self.run.rewind(self.progress.update)
            if last is not None:  # a deleted checkpoint is neither the last nor the best any more
                self.run.commit(self.progress.update, self.progress.best_update)
            self.run.prune(settings.keep_checkpoints)  # a kill can have come before it
            for name in (NOT_FINITE, OUT_OF_MEMORY):
                (self.run.path / name).unlink(missing_ok=True)

    def _asked(self) -> Asked:
        """Return all that decides the result, for the run directory to compare."""
        start = self.config.start_from
        decides: dict[str, str | None] = {
            "data_hash": self.data.data_hash,
            "vocabulary": self.data.vocabulary.digest(),
        }
        if start is None or directory(start).exists():  # or what was recorded stands
            digest = None if start is None else weights_digest(directory(start))
            decides["start_from"] = digest
        return Asked(
            self.config.model_dump(mode="json"), decides, self._may_differ, _with_new_fields
        )

    def _may_differ(self, stored: dict[str, Any], done: int) -> tuple[str, ...]:
        """Return the settings that may change now, after `done` updates."""
        free: tuple[str, ...] = ()
        for name, settings in (
            (NOT_FINITE, AFTER_NOT_FINITE),
            (OUT_OF_MEMORY, AFTER_OUT_OF_MEMORY),
        ):
            free += settings if (self.run.path / name).is_file() else ()
        try:
            before = RunConfig.model_validate(stored)
        except ValidationError:
            return free
        return (*free, "training.updates") if same_until(before, self.config, done) else free

    def update(self) -> None:
        """One optimiser step over `accumulate` batches a process, weighted by their labels."""
        began = time.perf_counter()
        settings, accelerator = self.settings, self.accelerator
        processes = accelerator.num_processes
        with self._memory():
            pieces, asked = self._batches()
            drawn = zip(pieces, asked, strict=True)
            passes = [self._completed(piece, each) for piece, each in drawn]
            labels = torch.tensor(sum(each.labelled() for each in passes), device=self.device)
            total = int(accelerator.reduce(labels, "sum"))
            self.progress.update += 1
            rate = learning_rate(settings, self.progress.update)
            for group in self.optimizer.param_groups:
                group["lr"] = rate
            # Windows of which nothing is to be predicted may be by themselves in a batch.
            smoothed, cross_entropy = self._backward(pieces, passes, processes / max(total, 1))
            norm = clip_gradients(self.objective.parameters(), settings)
            self._check_finite(smoothed, norm, pieces)
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
            if self.average is not None:
                self.average.take(self.progress.update)
        seconds = time.perf_counter() - began
        self.progress.seconds += seconds
        self._log(Sums(1, int(labels), smoothed, cross_entropy, norm, seconds), rate)

    def _batches(self) -> tuple[list[Piece], list[Pass]]:
        """Return the batches of the next update and their layouts; `progress` moves past them.

        Beside a GPU a thread prepares them while the last update is computed. What it prepares
        follows from the place in the feed alone, so a resumed run sees the same.
        """
        ready = (
            self._prepare(copy.copy(self.progress)) if self._ahead is None else self._ahead.result()
        )
        progress, pieces, passes = ready
        self.progress.epoch, self.progress.batch = progress.epoch, progress.batch
        if self._thread is not None:
            following = copy.copy(self.progress)
            following.update += 1
            self._ahead = self._thread.submit(self._prepare, following)
        return pieces, passes

    def _prepare(self, progress: Progress) -> tuple[Progress, list[Piece], list[Pass]]:
        """Return the batches after `progress`, their layouts, and where the feed stands then."""
        settings, accelerator = self.settings, self.accelerator
        rank, processes = accelerator.process_index, accelerator.num_processes
        mine = slice(rank * settings.accumulate, (rank + 1) * settings.accumulate)
        pieces = self.feed.take(progress, settings.accumulate * processes, mine)
        done = progress.update / settings.updates
        passes = [self.layouts.draw(piece.batch, piece.generator, done) for piece in pieces]
        return progress, pieces, passes

    def _completed(self, piece: Piece, asked: Pass) -> Pass:
        """Return a layout with what the frozen layers make of a draft's, or a wide path of
        documents.
        """
        if self.wide_logits is not None and isinstance(asked, WindowPass):
            return asked._replace(wide_logits=self.wide_logits[torch.from_numpy(piece.rows)])
        if self.trunk is None or not isinstance(asked, TrainingPass) or asked.drafts is None:
            return asked
        with self.accelerator.autocast():
            entering = self.trunk.of(
                piece.rows.tolist(), piece.batch.target_lengths, asked.slots.to(self.device)
            )
        return asked._replace(entering=entering)

    def _backward(
        self, pieces: list[Piece], passes: list[Pass], scale: float
    ) -> tuple[float, float]:
        """Add up the gradients of this process; returns the sums of both losses.

        What dropout leaves out follows from the seed, the update and the batch's place in it, so
        that a resumed run drops the same, and so do several processes and one that accumulates.
        """
        self.objective.train()
        first = self.accelerator.process_index * self.settings.accumulate
        sums = [0.0, 0.0]
        for index, (piece, asked) in enumerate(zip(pieces, passes, strict=True)):
            torch.manual_seed(stable_seed(self.settings.seed, self.progress.update, first + index))
            batch = piece.batch.to(self.device)
            last = index + 1 == len(pieces)
            with nullcontext() if last else self.accelerator.no_sync(self.objective):
                losses = self.objective(batch.source, batch.source_lengths, asked.to(self.device))
                self.accelerator.backward(losses.smoothed * scale)
            sums[0] += float(losses.smoothed.detach())
            sums[1] += float(losses.cross_entropy)
        return sums[0], sums[1]

    @contextmanager
    def _memory(self) -> Iterator[None]:
        """Say what helps where memory is too small; settings may then change in a resumed run.

        Any process may be the one that has too little.
        """
        try:
            yield
        except (RuntimeError, MemoryError) as error:
            if isinstance(error, RuntimeError) and not is_out_of_memory(error):
                raise
            write_json(self.run.path / OUT_OF_MEMORY, {"update": self.progress.update})
            raise UserError(
                f"out of memory at update {self.progress.update} with training.tokens_per_batch "
                f"{self.settings.tokens_per_batch}: lower it, raise training.accumulate by as "
                "much, and run it again with --resume"
            ) from error

    def asked_to_stop(self, stop: StopRequest) -> bool:
        """Return True if any process was asked to stop."""
        if self.accelerator.num_processes == 1:
            return stop.requested
        return bool(
            self.accelerator.reduce(torch.tensor(int(stop.requested), device=self.device), "sum")
        )

    def attention(self) -> AbstractContextManager[None]:
        """On CPUs the plain attention kernel: its backward pass is faster than the fused one on
        short sentences.
        """
        plain: AbstractContextManager[None] = sdpa_kernel(SDPBackend.MATH)
        return plain if self.device.type == "cpu" else nullcontext()

    def validate(self) -> None:
        """Measure (the averaged weights, if there are any), record, checkpoint; move `best` if this
        is the best.
        """
        with self._published() as model, self._memory():
            metrics = self._measured(model)
        self._check_measured(metrics)
        losses = [value for name, value in metrics.items() if name.startswith("validation_loss")]
        found = metrics["score"], -sum(losses) / len(losses)  # a loss decides among equal scores
        progress = self.progress
        if found > (progress.best, -progress.best_loss):
            progress.best, progress.best_loss = found[0], -found[1]
            progress.best_update = progress.update
        progress.validated = progress.update
        if self.accelerator.is_main_process:  # a line counts when `save` has committed it
            self.run.record({"update": self.progress.update, "kind": "validation", **metrics})
        self.save()
        if self.accelerator.is_main_process:
            self.run.prune(self.settings.keep_checkpoints)
        self.monitor.validated(self.progress.update, metrics)

    def _measured(self, model: Transformer) -> dict[str, float]:
        asked = objective(model, self.settings) if self.sharded else self.objective
        asked.eval()
        sizes = self.config.groups.sizes
        measured = {size: self._validated(asked, size) for size in sizes}
        if model.classifier is not None:
            [(loss, accuracy)] = measured.values()
            return {"validation_loss": loss, "accuracy": accuracy, "score": accuracy}
        losses = {f"validation_loss_k{size}": loss for size, (loss, _) in measured.items()}
        metrics = {**losses, "score": -sum(losses.values()) / len(losses)}
        if self._validate is not None:
            metrics.update(self._validate(model))
        return metrics

    def save(self) -> None:
        """Write a checkpoint; make it the last one, and the best if its score is."""
        optimizer = whole(self.optimizer.state_dict())
        with self._published() as model:
            if self.accelerator.is_main_process:
                self._write(model, optimizer)
                self.run.commit(self.progress.update, self.progress.best_update)

    def _write(self, model: Transformer, optimizer: dict[str, Any]) -> None:
        place = self.run.checkpoint(self.progress.update)
        provenance = {
            "config": self.config.model_dump(mode="json"),
            "data_hash": self.data.data_hash,
            "update": self.progress.update,
            "seconds": round(self.progress.seconds, 1),
            "seed": self.settings.seed,
        }
        card = model_card(model, self.config, self.data)

        def write_state(inside: Path) -> None:
            save_state(inside, optimizer, self.progress, self.average)

        save_model(place, model, self.data.vocabulary, provenance, card, write_state)

    @contextmanager
    def _published(self) -> Iterator[Transformer]:
        """The model with the weights that are measured and saved. All processes must ask for it."""
        if self.copy is not None:
            self.copy.load_state_dict(whole(self.model.state_dict()))
            yield self.copy
            return
        with nullcontext() if self.average is None else self.average.in_place():
            yield self.model

    def _prepared(self) -> tuple[nn.Module, torch.optim.Optimizer]:
        """Objective and optimiser, ready for the devices, the precision and the processes of this
        run.
        """
        trained = objective(self.model, self.settings, self.settings.r_drop)
        if not self.sharded:
            prepared, optimizer = self.accelerator.prepare(
                trained, build_optimizer(self.model, self.settings)
            )
            return prepared, optimizer
        divide(trained.to(self.device), self.device, self.accelerator.num_processes)
        return self.accelerator.prepare_model(trained, evaluation_mode=True), build_optimizer(
            self.model, self.settings
        )

    def _check_finite(self, loss: float, norm: float, pieces: list[Piece]) -> None:
        """Stop before a step that would spoil the weights, and say which pairs the update held."""
        if math.isfinite(loss) and math.isfinite(norm):
            return
        rows = [row for piece in pieces for row in piece.rows.tolist()]
        place = self._note_not_finite({"loss": str(loss), "norm": str(norm), "train_rows": rows})
        raise UserError(
            f"the loss is {loss} and the gradient norm {norm} at update {self.progress.update} "
            f"(its pairs are in {place}): {_AFTER_NOT_FINITE}"
        )

    def _check_measured(self, metrics: dict[str, float]) -> None:
        """Stop before weights that an update has spoilt become a checkpoint."""
        wrong = {name: str(value) for name, value in metrics.items() if not math.isfinite(value)}
        if not wrong:
            return
        name, value = next(iter(wrong.items()))
        self._note_not_finite({"validation": wrong})
        raise UserError(
            f"{name} is {value} after update {self.progress.update}, which has spoilt the weights: "
            f"{_AFTER_NOT_FINITE}"
        )

    def _note_not_finite(self, facts: dict[str, Any]) -> Path:
        """Write down what is no number; settings may then change when the run is resumed."""
        place = self.run.path / NOT_FINITE
        write_json(place, {"update": self.progress.update, **facts})
        return place

    @torch.inference_mode()
    def _validated(self, objective: nn.Module, group_size: int) -> tuple[float, float]:
        """Cross-entropy per label (token or class) in nats, and the share that is right, at one
        group size.
        """
        split = self.splits.get("validation") or self.data.split("validation")
        batches = token_batches(
            split.source_lengths,
            split.target_lengths,
            self.settings.tokens_per_batch,
            seed=None,
            epoch=0,
        )
        loss, correct, count = 0.0, 0, 0
        for rows in batches:
            batch = collate(split, rows, self.data.vocabulary)
            asked = self.layouts.fixed(batch, group_size)
            batch = batch.to(self.device)
            losses = objective(batch.source, batch.source_lengths, asked.to(self.device))
            loss += float(losses.cross_entropy)
            correct += int(losses.correct)
            count += asked.labelled()
        return loss / max(count, 1), correct / max(count, 1)

    def _log(self, sums: Sums, rate: float) -> None:
        since = self.progress.since + sums
        self.progress.since, update = since, self.progress.update
        speed = since.labels * self.accelerator.num_processes / since.seconds
        self.monitor.updated(update, since.cross_entropy / max(since.labels, 1), speed)
        if update % self.settings.log_every and update != self.settings.updates:
            return
        self.progress.since = Sums()
        totals = torch.tensor(
            [since.labels, since.smoothed, since.cross_entropy], dtype=torch.float64
        )
        labels, smoothed, cross_entropy = self.accelerator.reduce(
            totals.to(self.device), "sum"
        ).tolist()
        if self.accelerator.is_main_process:
            entry = {
                "update": update,
                "kind": "training",
                "epoch": self.progress.epoch,
                "loss": smoothed / max(labels, 1),
                "cross_entropy": cross_entropy / max(labels, 1),
                "learning_rate": rate,
                "gradient_norm": since.norm / since.updates,
                "tokens_per_second": speed,
            }
            self.run.record(entry)


def _accelerator(settings: TrainingConfig) -> Accelerator:
    """Return what places tensors and adds up gradients.

    It keeps its settings for the whole process, and refuses others: those of an earlier training in
    it are forgotten. Among several processes the group that they form stays.
    """
    alone = int(os.environ.get("WORLD_SIZE", "1")) == 1
    AcceleratorState._reset_state(reset_partial_state=alone)
    device = pick_device(settings.device)
    precision = "bf16" if pick_precision(settings.precision, device) == "bfloat16" else "no"
    return Accelerator(mixed_precision=precision, cpu=device.type == "cpu")


def stable_seed(*numbers: int) -> int:
    """A seed that follows from `numbers` alone and differs wherever one of them does."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0])


def same_until(one: RunConfig, other: RunConfig, done: int) -> bool:
    """Return True if runs that differ in `training.updates` alone are the same up to update `done`.

    The learning rate may depend on how many updates there are, and so do a curriculum and glancing.
    """
    if other.training.updates < done or other.groups.curriculum or other.groups.glancing:
        return False
    return all(
        learning_rate(one.training, update) == learning_rate(other.training, update)
        for update in range(1, done + 1)
    )


def _without_lost_start(config: RunConfig, begun: Path | None) -> RunConfig:
    """Return settings that start from the last checkpoint, where the model before it is gone."""
    start = config.start_from
    if begun is None or start is None or directory(start).exists():
        return config
    return config.model_copy(update={"start_from": begun})


def _with_new_fields(stored: Any) -> Any:
    """A stored configuration with the defaults of fields that did not exist when it was stored."""
    try:
        return RunConfig.model_validate(stored).model_dump(mode="json")
    except ValidationError:
        return stored
