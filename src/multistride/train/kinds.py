"""Kinds of training: slots of sentences and texts, or classes of documents."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from multistride.data.batch import PairedTokens, PreparedData, Split, TextWindows
from multistride.data.labelled import LabelledDocuments, window_sources
from multistride.data.vocab import Vocabulary
from multistride.errors import DataError, UsageError
from multistride.model.classifier import check_classes, freeze_what_writes
from multistride.model.config import TransformerConfig
from multistride.model.transformer import Transformer
from multistride.model.weights import load_model
from multistride.train.config import GroupsConfig, RunConfig, TrainingConfig
from multistride.train.layouts import LayoutDrawer
from multistride.train.loss import ClassLoss, Objective, SlotLoss
from multistride.train.wide import fit_wide
from multistride.train.windows import WindowDrawer


def check_idle(config: RunConfig, model: TransformerConfig) -> None:
    """Raise `UsageError` for a setting that decides nothing in this training.

    A setting at its default counts as left out.
    """
    training = config.training
    pooled = model.classifier is not None and model.classifier.kind == "pooled"
    causal = not model.encoder_layers
    falls = training.schedule in ("cosine", "linear", "wsd")
    uses = {
        "training.final_rate": ("the schedules cosine, linear and wsd", falls),
        "training.decay_share": ("the schedule wsd", training.schedule == "wsd"),
        "training.windows_per_document": ("pooled classifiers", pooled),
        "training.trunk_memory": ("adapters", model.adapter is not None),
        "groups.anchors": (
            "drafts (groups.lookahead) of texts without source",
            causal and config.groups.lookahead > 0,
        ),
        **{
            f"groups.{name}": ("models that write, and a pooled classifier does not", not pooled)
            for name in GroupsConfig.model_fields
            if name != "anchors"
        },
    }
    for place, (what, used) in uses.items():
        section, name = place.split(".")
        settings = getattr(config, section)
        value = getattr(settings, name)
        if not used and value != type(settings).model_fields[name].default:
            raise UsageError(
                f"{place} is {value} and decides nothing here: it is for {what}; leave it out"
            )


def drawer(config: RunConfig, model: TransformerConfig) -> LayoutDrawer | WindowDrawer:
    """Return the object that draws the layout of each batch."""
    if model.classifier is not None and model.classifier.kind == "pooled":
        return WindowDrawer(model.classifier, config.training.windows_per_document)
    return LayoutDrawer(config.groups, model, config.training.word_dropout)


def objective(model: Transformer, settings: TrainingConfig, r_drop: float = 0.0) -> Objective:
    """The model with what it is trained to do."""
    if model.classifier is None:
        return SlotLoss(model, settings.label_smoothing, r_drop)
    freeze_what_writes(model)
    return ClassLoss(model, settings.label_smoothing, r_drop, settings.word_dropout)


def trained_splits(data: PreparedData, model: TransformerConfig) -> dict[str, Split]:
    """The splits as the model learns them: one that writes labels learns every window with its
    label as a pair.
    """
    splits = {name: data.split(name) for name in data.manifest["splits"]}
    shape = model.classifier
    if shape is None or shape.kind == "pooled":
        return splits
    names = data.vocabulary.encode_target(list(shape.classes))
    cut = shape.window, shape.overlap, shape.first_tokens
    return {
        name: PairedTokens(*window_sources(split, names, *cut))
        if isinstance(split, LabelledDocuments)
        else split
        for name, split in splits.items()
    }


def resumed(directory: Path, expected: TransformerConfig) -> Transformer:
    """The model of a checkpoint. Raises `DataError` if the data no longer have the classes it was
    begun with.
    """
    model, _ = load_model(directory)
    if model.config.classifier is not None and expected.classifier is not None:
        check_classes(
            model.config.classifier.classes, expected.classifier.classes, str(directory), "the data"
        )
    return model


def wide_logits_of(
    model: Transformer, documents: Split, vocabulary: Vocabulary, say: Callable[[str], None]
) -> Tensor | None:
    """Fit the wide path of a classifier; its logits of the training documents [N, C], None if it
    has none.

    They follow from the documents alone, so a run that goes on has those it began with.
    """
    if model.classifier is None or model.classifier.wide is None:
        return None
    assert isinstance(documents, LabelledDocuments)
    fit = fit_wide(model.classifier, documents, vocabulary)
    right = float(
        (fit.held_out.argmax(1) == torch.from_numpy(np.array(documents.labels))).float().mean()
    )
    say(
        f"wide path: {fit.words} words, accuracy {right:.3f} on training documents that a fit did "
        "not see"
    )
    return fit.held_out


def check_lengths(splits: dict[str, Split], data: PreparedData, model: TransformerConfig) -> None:
    """Raise `DataError` for data the model has no positions for; documents that are read in windows
    fit always.
    """
    longest = model.max_positions
    for name, split in splits.items():
        if isinstance(split, LabelledDocuments):
            continue
        found = max(int(split.source_lengths.max()), int(split.target_lengths.max()))
        if found > longest and data.causal:
            raise DataError(
                f"{data.directory}: a {name} window has {found} tokens, the model allows "
                f"{longest}: "
                f"prepare with --window {longest} or raise model.max_positions"
            )
        if found > longest:
            raise DataError(
                f"{data.directory}: a {name} sentence has {found} tokens with EOS, the model "
                f"allows {longest}: "
                f"prepare with --max-tokens {longest - 1} or raise model.max_positions"
            )


def check_predicted(splits: dict[str, Split], data: PreparedData, model: TransformerConfig) -> None:
    """Raise `DataError` for windows of text of which none has a token that could be learned.

    Without a start symbol the first token of a window is only read; behind a place from which is
    drafted there must be another token.
    """
    first = 0 if model.start_symbol else 1
    least = 1 if model.adapter is None else 2
    for name, split in splits.items():
        if not isinstance(split, TextWindows):
            continue
        unknown = split.target_lengths - np.maximum(split.known, first)
        if not (unknown >= least).any():
            raise DataError(
                f"{data.directory}: no {name} window has {least} token{'s' * (least > 1)} or more "
                "to be predicted: prepare longer texts"
            )


def check_adapted(settings: TrainingConfig) -> None:
    """Raise `UsageError` for what frozen layers have no place for: they read texts as they are."""
    if settings.word_dropout:
        raise UsageError(
            f"training.word_dropout {settings.word_dropout:g} was given for a model with adapters, "
            "whose frozen layers read texts as they are: leave it out"
        )
