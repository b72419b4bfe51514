"""How probable given translations are: the sum that decoding would have reported, had it written them.

One parallel pass over each pair; the slots are those of decoding, so the numbers are too, up to rounding.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from multistride.data.batch import TokenPair, batches_of
from multistride.decode.markov import distribution
from multistride.decode.options import check_group_size, check_writes_groups
from multistride.groups import NO_LABEL, equal_sizes, previous_in_group, teacher_forced
from multistride.model.transformer import Transformer


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
    log_probabilities = distribution(config, model.markov)
    device = next(model.parameters()).device
    results: list[list[float]] = [[] for _ in pairs]
    for places, batch in batches_of(pairs, config.pad_token, config.end_token, tokens_per_batch):
        sizes = equal_sizes(batch.target_lengths, group_size)
        slots, labels = teacher_forced(batch.target, batch.target_lengths, sizes, config.start_token)
        asked = labels != NO_LABEL
        there = batch.to(device)
        hidden = model(there.source, there.source_lengths, slots.to(device))
        logits = model.project(hidden[asked.to(device)])
        values = log_probabilities(logits, previous_in_group(slots, labels)[asked])
        chosen = values.gather(1, labels[asked][:, None]).squeeze(1)
        parts = chosen.split(asked.sum(1).tolist())
        for place, part in zip(places, parts, strict=True):
            results[place] = part.tolist()
    return results
