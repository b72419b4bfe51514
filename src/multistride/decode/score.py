"""How probable given translations are: the sum that decoding would have reported, had it written them.

One parallel pass over each pair; the slots are those of decoding, so the numbers are too, up to rounding.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Int
from torch import Tensor

from multistride.data.batch import Batch, TokenPair, batches_of, continuations_of
from multistride.decode.markov import distribution
from multistride.decode.options import check_group_size, check_writes_groups
from multistride.groups import (
    NO_LABEL,
    Slots,
    equal_sizes,
    previous_in_group,
    teacher_forced,
)
from multistride.model.transformer import Transformer
from multistride.prompts import after_prompts, without_start


@torch.inference_mode()
def score_pairs(
    model: Transformer, pairs: Sequence[TokenPair], group_size: int = 1, tokens_per_batch: int = 2048
) -> list[list[float]]:
    """The natural log-probability of every target token of every pair, EOS included, at one group size.

    The n-th list belongs to the n-th pair. Raises `UsageError` for a group size the checkpoint cannot write.
    """
    config = model.config
    check_group_size(group_size, config)
    check_writes_groups(group_size, config)
    model.eval()
    results: list[list[float]] = [[] for _ in pairs]
    for places, batch in batches_of(pairs, config.pad_token, config.end_token, tokens_per_batch):
        sizes = equal_sizes(batch.target_lengths, group_size)
        slots, labels = teacher_forced(batch.target, batch.target_lengths, sizes, config.start_token)
        for place, values in zip(places, _scored(model, batch, slots, labels), strict=True):
            results[place] = values
    return results


@torch.inference_mode()
def score_continuations(
    model: Transformer, pairs: Sequence[TokenPair], group_size: int = 1, tokens_per_batch: int = 2048
) -> list[list[float]]:
    """The same for a causal model: of every token that follows a prompt, given the prompt. No EOS is added.

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
        sizes = after_prompts(known, equal_sizes((batch.target_lengths - known).clamp(min=0), group_size))
        slots, labels = teacher_forced(batch.target, batch.target_lengths, sizes, config.start_token)
        labels = labels.masked_fill(slots.position < batch.known[:, None], NO_LABEL)
        if not config.start_symbol:
            slots, labels = without_start(slots, labels)
        for place, values in zip(places, _scored(model, batch, slots, labels), strict=True):
            results[place] = values
    return results


def _scored(model: Transformer, batch: Batch, slots: Slots, labels: Int[Tensor, "B N"]) -> list[list[float]]:
    """The log-probability of every label, row by row."""
    device = next(model.parameters()).device
    asked, there = labels != NO_LABEL, batch.to(device)
    hidden = model(there.source, there.source_lengths, slots.to(device))
    logits = model.project(hidden[asked.to(device)])
    values = distribution(model.config, model.markov)(logits, previous_in_group(slots, labels)[asked])
    chosen = values.gather(1, labels[asked][:, None]).squeeze(1)
    return [part.tolist() for part in chosen.split(asked.sum(1).tolist())]
