"""Settings of a training run: one YAML file, one section per component. Unknown keys are errors."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from multistride.device import Precision
from multistride.model.config import AdapterConfig, ClassifierConfig, TransformerConfig
from multistride.settings import Settings

Beta = Annotated[float, Field(ge=0, lt=1)]


def ordered_sizes(sizes: dict[int, float]) -> dict[int, float]:
    """Group sizes in rising order. Raises `ValueError` for one below 1 or a share that is not above
    0.
    """
    if not sizes or min(sizes) < 1:
        raise ValueError("each group size must be at least 1")
    if not all(0 < share < math.inf for share in sizes.values()):
        raise ValueError("each share must be a number above 0: leave a size out instead")
    return dict(sorted(sizes.items()))


Sizes = Annotated[dict[int, float], AfterValidator(ordered_sizes)]


class Stage(Settings):
    """An early part of the training with group sizes of its own."""

    until: float = Field(gt=0, lt=1, description="where the stage ends, as a share of all updates")
    sizes: Sizes = Field(description="group size (K) to its share of the sentences, in this stage")


class GroupsConfig(Settings):
    """Layouts that the model is trained on. Every sentence of a batch draws its own."""

    sizes: Sizes = Field({1: 1.0}, description="group size (K) to its share of the sentences")
    curriculum: tuple[Stage, ...] = Field(
        (), description="what comes before `sizes`, stage by stage"
    )
    random_borders: float = Field(
        0.0, ge=0, le=1, description="share of sentences cut at random places instead"
    )
    partial_groups: float = Field(
        0.0,
        ge=0,
        le=1,
        description="share of sentences whose groups commit only some of their tokens",
    )
    lookahead: float = Field(
        0.0, ge=0, le=1, description="share of sentences laid out as for drafting"
    )
    anchors: int = Field(
        16,
        ge=1,
        description="of a text without source: places that it is drafted from, where laid out so",
    )
    glancing: float = Field(
        0.0, ge=0, lt=1, description="share of a group revealed at first; falls to 0 at the end"
    )
    markov_rank: int = Field(0, ge=0, description="rank of the Markov head to train; 0 for none")

    @model_validator(mode="after")
    def _in_order(self) -> GroupsConfig:
        ends = [stage.until for stage in self.curriculum]
        if ends != sorted(set(ends)):
            raise ValueError(
                f"curriculum ends its stages at {ends}; each must end after the one before it"
            )
        unknown = {size for stage in self.curriculum for size in stage.sizes} - self.sizes.keys()
        if unknown:
            raise ValueError(
                f"curriculum trains K={min(unknown)}, which sizes does not name: a size left out "
                "is forgotten; "
                "add it to sizes"
            )
        return self

    def at(self, progress: float) -> dict[int, float]:
        """The group sizes and their shares when `progress` (0 to 1) of all updates are done."""
        return next(
            (stage.sizes for stage in self.curriculum if progress < stage.until), self.sizes
        )


class TrainingConfig(Settings):
    """Optimisation. Updates are optimiser steps; tokens are those of the longer side, padded."""

    updates: int = Field(5000, ge=1, description="optimiser steps in all")
    tokens_per_batch: int = Field(
        2048, ge=16, description="padded tokens a batch, of the longer side"
    )
    accumulate: int = Field(1, ge=1, description="batches per optimiser step and process")
    learning_rate: float = Field(1e-3, gt=0, description="the highest of the schedule")
    schedule: Literal["inverse_sqrt", "cosine", "linear", "wsd", "constant"] = Field("inverse_sqrt")
    warmup_updates: int = Field(
        400, ge=0, description="updates in which the rate rises linearly from 0"
    )
    final_rate: float = Field(
        0.0, ge=0, le=1, description="where cosine, linear and wsd end, as a share of learning_rate"
    )
    decay_share: float = Field(
        0.2, gt=0, le=1, description="wsd: share of all updates in which the rate falls"
    )
    optimizer: Literal["adamw", "muon"] = Field(
        "adamw",
        description="muon: orthogonal steps for the matrices of layers, AdamW for the rest",
    )
    adam_betas: tuple[Beta, Beta] = Field((0.9, 0.98))
    weight_decay: float = Field(0.0, ge=0, description="decoupled (AdamW), on matrices only")
    clip_norm: float = Field(1.0, ge=0, description="largest norm of the gradient; 0 does not clip")
    clip_value: float = Field(
        0.0, ge=0, description="largest entry of the gradient, cut before the norm; 0: any"
    )
    label_smoothing: float = Field(0.1, ge=0, lt=1)
    word_dropout: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="share of what a decoder (or pooled classifier) reads replaced by the mask "
        "symbol",
    )
    windows_per_document: int = Field(
        8,
        ge=1,
        description="pooled classifiers: windows of a document read in one update, drawn anew "
        "each time",
    )
    r_drop: float = Field(
        0.0, ge=0, description="weight of the divergence between two dropouts; 0: one pass"
    )
    moving_average: float = Field(
        0.0, ge=0, lt=1, description="decay of the averaged weights (EMA); 0 for none"
    )
    precision: Precision = Field("auto", description="bfloat16 is autocast; weights stay float32")
    device: str = Field("auto", description="auto, cpu, cuda or cuda:N")
    trunk_memory: float = Field(
        2048.0,
        ge=0,
        description="adapters: megabytes for what the frozen layers make of windows; 0: compute "
        "it anew",
    )
    sharding: Literal["none", "full"] = Field(
        "none",
        description="of several processes: full divides weights and optimiser state among them "
        "(FSDP)",
    )
    seed: int = Field(1, ge=0)
    log_every: int = Field(50, ge=1, description="updates between two lines of metrics.jsonl")
    validate_every: int = Field(
        500, ge=1, description="updates between two validations, each with a checkpoint"
    )
    validate_sentences: int = Field(
        500,
        ge=0,
        description="validation sentences decoded for BLEU, or documents scored with labels; 0: "
        "none",
    )
    tokenize: str = Field(
        "13a",
        description="tokenizer of sacreBLEU for that BLEU: zh for Chinese, char for other text "
        "without blanks",
    )
    keep_checkpoints: int = Field(2, ge=1, description="newest checkpoints kept, beside the best")

    @model_validator(mode="after")
    def _compatible(self) -> TrainingConfig:
        if self.sharding == "full" and self.moving_average:
            raise ValueError(
                "sharding full and moving_average exclude each other: average checkpoints instead"
            )
        if self.sharding == "full" and self.optimizer == "muon":
            raise ValueError(
                "sharding full and optimizer muon exclude each other, as a step needs whole "
                "matrices: leave out one"
            )
        return self


class RunConfig(Settings):
    """A whole run."""

    data: Path = Field(description="directory that `multistride prepare` wrote")
    run: Path = Field(description="directory for checkpoints and metrics")
    start_from: Path | None = Field(
        None, description="model directory, or model that ships, whose weights are the start"
    )
    model: TransformerConfig | None = Field(
        None, description="left out with start_from: that model's own"
    )
    adapter: AdapterConfig | None = Field(
        None,
        description="train nothing but these, which draft: the model started from stays what it "
        "was",
    )
    classifier: ClassifierConfig | None = Field(
        None, description="train a classifier, on documents with labels"
    )
    groups: GroupsConfig = GroupsConfig()
    training: TrainingConfig = TrainingConfig()

    @model_validator(mode="after")
    def _one_model(self) -> RunConfig:
        if self.model is not None and self.start_from is not None:
            raise ValueError(
                "model and start_from exclude each other: the model started from fixes the sizes"
            )
        if self.adapter is not None and self.start_from is None:
            raise ValueError("adapter is added to a trained model: name it in start_from")
        if self.adapter is not None and self.training.optimizer == "muon":
            raise ValueError(
                "optimizer muon is for the matrices of layers, which an adapter leaves as they "
                "are: leave it out"
            )
        return self
