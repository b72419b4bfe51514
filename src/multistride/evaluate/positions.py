"""What each place of a group is worth: how well a model predicts it, and how well it knows that.

Measured on references the model is given (teacher forcing), so that one place's errors are not another's.
Shapes: L labels, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from multistride.data.batch import Batch
from multistride.groups import NO_LABEL, equal_sizes, previous_in_group, teacher_forced
from multistride.model.config import TransformerConfig
from multistride.model.transformer import Transformer
from multistride.report.results import PlaceMeasurement
from multistride.train.loss import labelled_logits

TokenPair = tuple[Sequence[int], Sequence[int]]
"""Source and target tokens of a sentence, without EOS."""

_TOKENS_PER_BATCH = 2048


@torch.inference_mode()
def measure_places(
    model: Transformer, pairs: Sequence[TokenPair], group_sizes: Sequence[int]
) -> list[PlaceMeasurement]:
    """Cross-entropy, accuracy, confidence and entropy by group size and place in the group, place 1 first.

    EOS counts as a token; what stands after it in its group does not. Raises nothing: pairs must fit the model.
    """
    model.eval()
    return [
        measurement
        for size in group_sizes
        for measurement in _places(model, list(_batches(model.config, pairs)), size)
    ]


def _places(model: Transformer, batches: list[Batch], group_size: int) -> list[PlaceMeasurement]:
    facts, places = [], []
    device = next(model.parameters()).device
    for batch in batches:
        sizes = equal_sizes(batch.target_lengths, group_size)
        slots, labels = teacher_forced(batch.target, batch.target_lengths, sizes, model.config.start_token)
        asked = labels != NO_LABEL
        previous = previous_in_group(slots, labels).to(device)
        there = batch.to(device)
        logits = labelled_logits(
            model, there.source, there.source_lengths, slots.to(device), labels.to(device), previous
        )
        facts.append(_facts(logits.cpu(), labels[asked]))
        places.append(slots.position[asked] % group_size)
    everything, place = torch.cat(facts), torch.cat(places)
    rows = [everything[place == index] for index in range(group_size)]
    return [
        PlaceMeasurement(
            group_size=group_size,
            place=index + 1,
            tokens=len(row),
            **dict(zip(_MEASURES, row.mean(0).tolist(), strict=True)),
        )
        for index, row in enumerate(rows)
        if len(row)
    ]


_MEASURES = ("cross_entropy", "accuracy", "confidence", "entropy")


def _facts(logits: Tensor, labels: Tensor) -> Tensor:
    """What `_MEASURES` names, label by label [L, 4]; in nats and shares."""
    log_probabilities = logits.log_softmax(-1)
    best, choice = log_probabilities.max(-1)
    right = log_probabilities.gather(1, labels[:, None]).squeeze(1)
    entropy = -(log_probabilities.exp() * log_probabilities).sum(-1)
    return torch.stack([-right, (choice == labels).float(), best.exp(), entropy], dim=1).double()


def _batches(config: TransformerConfig, pairs: Sequence[TokenPair]) -> Iterator[Batch]:
    """Batches of similar length, EOS added."""
    by_length = sorted(pairs, key=lambda pair: max(map(len, pair)))
    waiting: list[TokenPair] = []
    for pair in by_length:
        if waiting and (len(waiting) + 1) * (max(map(len, pair)) + 1) > _TOKENS_PER_BATCH:
            yield _batch(config, waiting)
            waiting = []
        waiting.append(pair)
    if waiting:
        yield _batch(config, waiting)


def _batch(config: TransformerConfig, pairs: Sequence[TokenPair]) -> Batch:
    sides = []
    for side in zip(*pairs, strict=True):
        rows = [torch.tensor([*tokens, config.end_token]) for tokens in side]
        sides += [
            pad_sequence(rows, batch_first=True, padding_value=config.pad_token),
            torch.tensor([len(row) for row in rows]),
        ]
    return Batch(*sides)
