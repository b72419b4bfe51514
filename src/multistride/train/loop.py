"""Training, from the first update to the last, or from where a run was stopped.

One loop serves every mixture of layouts; autoregressive training is the mixture {1: 1.0}. It stands on
`accelerate` for devices, precision and processes, and never imports decoding: it is handed a `validate` function.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from multistride.data.batch import PreparedData, collate, token_batches
from multistride.device import pick_device, pick_precision
from multistride.errors import DataError, Interrupted, UserError
from multistride.groups import NO_LABEL, Slots
from multistride.model.transformer import Transformer
from multistride.model.weights import load_model, save_model
from multistride.rundir import RunDirectory
from multistride.train.card import model_card
from multistride.train.checkpoint import Progress, Sums, load_state, save_state
from multistride.train.config import RunConfig, TrainingConfig
from multistride.train.feed import Feed, Piece
from multistride.train.interrupt import stop_on_signal
from multistride.train.layouts import draw_slots, fixed_slots
from multistride.train.loss import SlotLoss
from multistride.train.monitor import Monitor
from multistride.train.schedule import learning_rate
from multistride.train.warmstart import first_model

Validate = Callable[[Transformer], dict[str, float]]
"""Decodes validation sentences; returns metrics, one of them `score` (higher is better)."""


def train(config: RunConfig, validate: Validate | None, monitor: Monitor, resume: bool = False) -> RunDirectory:
    """Run the training `config` describes and return its directory; the result is RUN/best.

    Raises `UsageError` for a run that exists or differs, `DataError` for data or weights that do not fit,
    `Interrupted` after Ctrl-C (with a checkpoint to `resume` from), `UserError` when the loss is not finite.
    """
    trainer = Trainer(config, validate, monitor, resume)
    with (
        stop_on_signal() as stop,
        trainer.attention(),
        monitor.showing(config.training.updates, trainer.progress.update),
    ):
        while trainer.progress.update < config.training.updates:
            trainer.update()
            at_end = trainer.progress.update == config.training.updates
            if at_end or trainer.progress.update % config.training.validate_every == 0:
                trainer.validate()
            if stop.requested and not at_end:
                trainer.save()
                raise Interrupted(
                    f"stopped after update {trainer.progress.update} of {config.training.updates}; "
                    "the checkpoint is written: run the same command with --resume to continue"
                )
    return trainer.run


class Trainer:
    """One run in progress: model, optimiser, feed and where they stand."""

    def __init__(self, config: RunConfig, validate: Validate | None, monitor: Monitor, resume: bool) -> None:
        self.config, self._validate, self._monitor = config, validate, monitor
        self.settings = config.training
        self.data = PreparedData.load(config.data)
        self.run = RunDirectory(config.run)
        torch.manual_seed(self.settings.seed)
        self.model = first_model(config, self.data.vocabulary)
        self.run.open(config.model_dump(mode="json"), resume)
        self.progress = Progress()
        last = self.run.last()
        if last is not None:
            self.model = load_model(last)[0]
        self._check_lengths()
        self._accelerate()
        if last is not None:
            self.progress = load_state(last, self.optimizer)
        self.run.rewind(self.progress.update)
        self.feed = Feed(
            self.data.split("train"), self.data.vocabulary, self.settings.tokens_per_batch, self.settings.seed
        )
        self.device = self.accelerator.device

    def update(self) -> None:
        """One optimiser step over `accumulate` batches a process, weighted by their labels."""
        began = time.perf_counter()
        settings, accelerator = self.settings, self.accelerator
        rank, processes = accelerator.process_index, accelerator.num_processes
        mine = slice(rank * settings.accumulate, (rank + 1) * settings.accumulate)
        pieces = self.feed.take(self.progress, settings.accumulate * processes, mine)
        passes = [self._slots(piece) for piece in pieces]
        labels = torch.tensor(sum(int((wanted != NO_LABEL).sum()) for _, wanted in passes), device=self.device)
        total = int(accelerator.reduce(labels, "sum"))
        self.progress.update += 1
        rate = learning_rate(settings, self.progress.update)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.objective.train()
        sums = [0.0, 0.0]
        for index, (piece, (slots, wanted)) in enumerate(zip(pieces, passes, strict=True)):
            batch = piece.batch.to(self.device)
            quiet = accelerator.no_sync(self.objective) if index + 1 < len(pieces) else nullcontext()
            with quiet:
                losses = self.objective(
                    batch.source, batch.source_lengths, slots.to(self.device), wanted.to(self.device)
                )
                accelerator.backward(losses.smoothed * processes / total)
            sums = [
                before + float(loss.detach())
                for before, loss in zip(sums, (losses.smoothed, losses.cross_entropy), strict=True)
            ]
        norm = self._clip()
        self._check_finite(sums[0], norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.progress.seconds += time.perf_counter() - began
        self._log(Sums(1, int(labels), sums[0], sums[1], norm, time.perf_counter() - began), rate)

    def attention(self) -> AbstractContextManager[None]:
        """On CPUs the plain attention kernel: its backward pass is faster than the fused one on short sentences."""
        plain: AbstractContextManager[None] = sdpa_kernel(SDPBackend.MATH)
        return plain if self.device.type == "cpu" else nullcontext()

    def validate(self) -> None:
        """Measure, record, checkpoint; move `best` if this is the best so far."""
        self.objective.eval()
        metrics: dict[str, float] = {}
        for group_size in self.config.groups.sizes:
            metrics[f"validation_loss_k{group_size}"] = self._validation_loss(group_size)
        losses = list(metrics.values())
        metrics["score"] = -sum(losses) / len(losses)
        if self._validate is not None:
            metrics.update(self._validate(self.model))
        best = metrics["score"] > self.progress.best
        self.progress.best = max(metrics["score"], self.progress.best)
        self.save()
        if self.accelerator.is_main_process:
            if best:
                self.run.point("best", self.progress.update)
            self.run.prune(self.settings.keep_checkpoints)
            self.run.record({"update": self.progress.update, "kind": "validation", **metrics})
        self._monitor.validated(self.progress.update, metrics)

    def save(self) -> None:
        """Write a checkpoint and point `last` at it."""
        if not self.accelerator.is_main_process:
            return
        place = self.run.checkpoint(self.progress.update)
        provenance = {
            "config": self.config.model_dump(mode="json"),
            "data_hash": self.data.data_hash,
            "update": self.progress.update,
            "seconds": round(self.progress.seconds, 1),
            "seed": self.settings.seed,
        }
        card = model_card(self.model, self.config, self.data)
        save_model(place, self.model, self.data.vocabulary, provenance, card, self._save_state)
        self.run.point("last", self.progress.update)

    def _save_state(self, place: Path) -> None:
        save_state(place, self.optimizer, self.progress)

    def _check_lengths(self) -> None:
        """Refuse data the model has no positions for."""
        longest = self.model.config.max_positions
        for name in self.data.manifest["splits"]:
            split = self.data.split(name)
            found = max(int(split.source_lengths.max()), int(split.target_lengths.max()))
            if found > longest:
                raise DataError(
                    f"{self.config.data}: a {name} sentence has {found} tokens with EOS, the model allows {longest}: "
                    f"prepare with --max-tokens {longest - 1} or raise model.max_positions"
                )

    def _accelerate(self) -> None:
        device = pick_device(self.settings.device)
        precision = "bf16" if pick_precision(self.settings.precision, device) == "bfloat16" else "no"
        self.accelerator = Accelerator(mixed_precision=precision, cpu=device.type == "cpu")
        objective = SlotLoss(self.model, self.settings.label_smoothing)
        self.objective: nn.Module
        self.optimizer: torch.optim.Optimizer
        optimizer = torch.optim.AdamW(
            parameter_groups(self.model, self.settings),
            lr=self.settings.learning_rate,
            betas=self.settings.adam_betas,
            eps=1e-9,
            fused=True,
        )
        self.objective, self.optimizer = self.accelerator.prepare(objective, optimizer)

    def _slots(self, piece: Piece) -> tuple[Slots, torch.Tensor]:
        return draw_slots(piece.batch, self.config.groups, self.model.config.start_token, piece.generator)

    def _clip(self) -> float:
        largest = self.settings.clip_norm or math.inf
        return float(self.accelerator.clip_grad_norm_(self.objective.parameters(), largest))

    def _check_finite(self, loss: float, norm: float) -> None:
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise UserError(
                f"the loss is {loss} and the gradient norm {norm} at update {self.progress.update}: lower "
                "training.learning_rate or set training.precision: float32, then --resume from the last checkpoint"
            )

    @torch.inference_mode()
    def _validation_loss(self, group_size: int) -> float:
        """Cross-entropy per target token at one group size, in nats."""
        split = self.data.split("validation")
        batches = token_batches(
            split.source_lengths, split.target_lengths, self.settings.tokens_per_batch, seed=None, epoch=0
        )
        loss, count = 0.0, 0
        for rows in batches:
            batch = collate(split, rows, self.data.vocabulary)
            slots, labels = fixed_slots(batch, group_size, self.model.config.start_token)
            batch = batch.to(self.device)
            losses = self.objective(batch.source, batch.source_lengths, slots.to(self.device), labels.to(self.device))
            loss += float(losses.cross_entropy)
            count += int((labels != NO_LABEL).sum())
        return loss / count

    def _log(self, sums: Sums, rate: float) -> None:
        since = self.progress.since + sums
        self.progress.since, update = since, self.progress.update
        loss = since.cross_entropy / since.labels
        speed = since.labels * self.accelerator.num_processes / since.seconds
        self._monitor.updated(update, loss, speed)
        if update % self.settings.log_every and update != self.settings.updates:
            return
        if self.accelerator.is_main_process:
            entry = {
                "update": update,
                "kind": "training",
                "epoch": self.progress.epoch,
                "loss": since.smoothed / since.labels,
                "cross_entropy": loss,
                "learning_rate": rate,
                "gradient_norm": since.norm / since.updates,
                "tokens_per_second": speed,
            }
            self.run.record(entry)
        self.progress.since = Sums()


def parameter_groups(model: nn.Module, settings: TrainingConfig) -> list[dict[str, Any]]:
    """Matrices with weight decay; biases, norms and embeddings without."""
    embeddings = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    decayed = [p for p in model.parameters() if p.dim() > 1 and id(p) not in embeddings]
    chosen = {id(parameter) for parameter in decayed}
    others = [p for p in model.parameters() if id(p) not in chosen]
    return [
        {"params": decayed, "weight_decay": settings.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
