"""Scoring: the log-probability of given texts, as decoding would have reported it.

One parallel pass over each pair; the slots are those of decoding, so the numbers are too, up to
rounding.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from multistride.data.batch import Batch, TokenPair, batches_of, continuations_of
from multistride.decode.corpus import source_batch
from multistride.decode.markov import distribution
from multistride.decode.options import check_group_size, check_writes_groups
from multistride.groups import (
    NO_LABEL,
    Slots,
    previous_in_group,
    sizes_behind,
    teacher_forced,
    visibility,
    without_start,
)
from multistride.model.transformer import Transformer


@torch.inference_mode()
def score_pairs(
    model: Transformer,
    pairs: Sequence[TokenPair],
    group_size: int = 1,
    tokens_per_batch: int = 2048,
) -> list[list[float]]:
    """The natural log-probability of every target token of every pair, EOS included, at one group
    size.

    The n-th list belongs to the n-th pair. Raises `UsageError` for a group size the checkpoint
    cannot write.
    """
    config = model.config
    check_group_size(group_size, config)
    check_writes_groups(group_size, config)
    model.eval()
    results: list[list[float]] = [[] for _ in pairs]
    for places, batch in batches_of(pairs, config.pad_token, config.end_token, tokens_per_batch):
        sizes = sizes_behind(config.forced_tokens, batch.target_lengths, group_size)
        slots, labels = teacher_forced(
            batch.target, batch.target_lengths, sizes, config.start_token
        )
        for place, values in zip(places, _scored(model, batch, slots, labels), strict=True):
            results[place] = values
    return results


@torch.inference_mode()
def score_choices(
    model: Transformer,
    sources: Sequence[Sequence[int]],
    choices: Sequence[Sequence[int]],
    group_size: int = 1,
) -> Float[Tensor, "B C"]:
    """The natural log-probability of each of the same C choices after each of B sources, EOS
    included.

    Every source is encoded once; `score_pairs`, which encodes it for every choice, sums to the
    same. Raises as that does.
    """
    config = model.config
    check_group_size(group_size, config)
    check_writes_groups(group_size, config)
    model.eval()
    device, count = next(model.parameters()).device, len(choices)
    source, lengths = source_batch(sources, config)
    names, name_lengths = source_batch(choices, config)
    sizes = sizes_behind(config.forced_tokens, name_lengths, group_size)
    slots, labels = teacher_forced(names, name_lengths, sizes, config.start_token)
    encoded, real = model.encode(source.to(device), lengths.to(device))
    projected = model.project_source(encoded)
    memory = [
        (key.repeat_interleave(count, 0), value.repeat_interleave(count, 0))
        for key, value in projected
    ]
    many = Slots(*(field.repeat(len(sources), 1) for field in slots))
    seen = visibility(many.group, many.group)[:, None].to(device)
    source_mask = None if real is None else real.repeat_interleave(count, 0)
    hidden = model.decode(many.to(device), seen, memory, source_mask, None)
    labels, previous = (
        part.repeat(len(sources), 1) for part in (labels, previous_in_group(slots, labels))
    )
    asked = labels != NO_LABEL
    logits = model.project(hidden[asked.to(device)])
    values = distribution(config, model.markov)(logits, previous[asked]).gather(
        1, labels[asked][:, None]
    )
    return torch.zeros(labels.shape).masked_scatter(asked, values).sum(1).view(len(sources), count)


@torch.inference_mode()
def score_continuations(
    model: Transformer,
    pairs: Sequence[TokenPair],
    group_size: int = 1,
    tokens_per_batch: int = 2048,
) -> list[list[float]]:
    """Return the log-probability of every token that follows a prompt. No EOS is added.

    Where a model goes on from a first token and the prompt is empty, that token has no probability.
    """
    config = model.config
    check_group_size(group_size, config)
    check_writes_groups(group_size, config)
    model.eval()
    results: list[list[float]] = [[] for _ in pairs]
    for places, batch in continuations_of(pairs, config.pad_token, tokens_per_batch):
        assert batch.known is not None
        known = batch.known.clamp(min=0 if config.start_symbol else 1)
        sizes = sizes_behind(known, batch.target_lengths, group_size)
        slots, labels = teacher_forced(
            batch.target, batch.target_lengths, sizes, config.start_token
        )
        labels = labels.masked_fill(slots.position < batch.known[:, None], NO_LABEL)
        if not config.start_symbol:
            slots, labels = without_start(slots, labels)
        for place, values in zip(places, _scored(model, batch, slots, labels), strict=True):
            results[place] = values
    return results


def _scored(
    model: Transformer, batch: Batch, slots: Slots, labels: Int[Tensor, "B N"]
) -> list[list[float]]:
    """The log-probability of every label, row by row."""
    device = next(model.parameters()).device
    asked, there = labels != NO_LABEL, batch.to(device)
    hidden = model(there.source, there.source_lengths, slots.to(device))
    logits = model.project(hidden[asked.to(device)])
    values = distribution(model.config, model.markov)(
        logits, previous_in_group(slots, labels)[asked]
    )
    chosen = values.gather(1, labels[asked][:, None]).squeeze(1)
    return [part.tolist() for part in chosen.split(asked.sum(1).tolist())]
