"""Accuracy and confidence at each place of a group, given the reference before it.

Measured on references the model is given (teacher forcing), so that one place's errors are not
another's. Shapes: L labels, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from multistride.data.batch import Batch, TokenPair, batches_of
from multistride.groups import NO_LABEL, previous_in_group, sizes_behind, teacher_forced
from multistride.metrics.calibration import calibration_error
from multistride.model.transformer import Transformer
from multistride.report.result import Place
from multistride.train.layouts import TrainingPass
from multistride.train.loss import labelled_logits

_TOKENS_PER_BATCH = 2048


@torch.inference_mode()
def measure_places(
    model: Transformer, pairs: Sequence[TokenPair], group_sizes: Sequence[int]
) -> list[Place]:
    """Return cross-entropy, accuracy, confidence, its error and entropy by group size and place.

    EOS counts as a token; what follows it in its group does not, nor does a forced first token.
    Pairs must fit the model.
    """
    model.eval()
    special = model.config.pad_token, model.config.end_token
    batches = [batch for _, batch in batches_of(pairs, *special, _TOKENS_PER_BATCH)]
    return [measurement for size in group_sizes for measurement in _places(model, batches, size)]


def _places(model: Transformer, batches: list[Batch], group_size: int) -> list[Place]:
    facts, places = [], []
    device = next(model.parameters()).device
    for batch in batches:
        forced = model.config.forced_tokens
        sizes = sizes_behind(forced, batch.target_lengths, group_size)
        slots, labels = teacher_forced(
            batch.target, batch.target_lengths, sizes, model.config.start_token
        )
        labels = labels.masked_fill(slots.position < forced, NO_LABEL)
        labelled = labels != NO_LABEL
        asked = TrainingPass(slots, labels, previous_in_group(slots, labels)).to(device)
        there = batch.to(device)
        logits = labelled_logits(model, there.source, there.source_lengths, asked)
        facts.append(_facts(logits.cpu(), labels[labelled]))
        places.append((slots.position[labelled] - forced) % group_size)
    everything, place = torch.cat(facts), torch.cat(places)
    rows = [everything[place == index] for index in range(group_size)]
    return [
        Place(
            group_size=group_size,
            place=index + 1,
            tokens=len(row),
            **dict(zip(_MEASURES, row.mean(0).tolist(), strict=True)),
            calibration_error=calibration_error(
                row[:, 2].numpy().clip(max=1), row[:, 1].numpy() > 0.5
            ),
        )
        for index, row in enumerate(rows)
        if len(row)
    ]


_MEASURES = ("cross_entropy", "accuracy", "confidence", "entropy")


def _facts(logits: Tensor, labels: Tensor) -> Tensor:
    """Return what `_MEASURES` names, label by label [L, 4], in nats and shares."""
    log_probabilities = logits.log_softmax(-1)
    best, choice = log_probabilities.max(-1)
    right = log_probabilities.gather(1, labels[:, None]).squeeze(1)
    entropy = -(log_probabilities.exp() * log_probabilities).sum(-1)
    return torch.stack([-right, (choice == labels).float(), best.exp(), entropy], dim=1).double()
