"""The objective against PyTorch's own cross-entropy."""

import pytest
import torch
from torch.nn.functional import cross_entropy

from multistride.groups import NO_LABEL, equal_sizes, teacher_forced
from multistride.model.config import TransformerConfig
from multistride.model.transformer import Transformer
from multistride.train.loss import SlotLoss


@pytest.fixture(scope="module", params=[True, False], ids=["tied", "untied"])
def model(request):
    torch.manual_seed(1)
    config = TransformerConfig(
        vocabulary_size=19,
        hidden_size=16,
        feedforward_size=16,
        heads=2,
        encoder_layers=1,
        decoder_layers=1,
        max_group_size=4,
        dropout=0.0,
        tie_embeddings=request.param,
    )
    return Transformer(config)


@pytest.fixture(scope="module")
def batch():
    generator = torch.Generator().manual_seed(2)
    source, target = (torch.randint(5, 19, (4, 11), generator=generator) for _ in range(2))
    lengths = torch.tensor([11, 3, 7, 1])
    slots, labels = teacher_forced(target, lengths, equal_sizes(lengths, torch.tensor([1, 4, 2, 3])), 1)
    return source, lengths, slots, labels


def reference(model, batch, smoothing):
    source, lengths, slots, labels = batch
    logits = model.project(model(source, lengths, slots)).flatten(0, 1)
    return logits, cross_entropy(
        logits, labels.flatten(), ignore_index=NO_LABEL, reduction="sum", label_smoothing=smoothing
    )


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.7])
def test_smoothed_loss_and_gradients(model, batch, smoothing):
    # Guards: smoothing over the wrong distribution or the wrong slots, a mean where a sum is meant.
    _, expected = reference(model, batch, smoothing)
    wanted = torch.autograd.grad(expected, list(model.parameters()))
    found = SlotLoss(model, smoothing)(*batch)
    torch.testing.assert_close(found.smoothed, expected)
    gradients = torch.autograd.grad(found.smoothed, list(model.parameters()))
    for gradient, reference_gradient in zip(gradients, wanted, strict=True):
        torch.testing.assert_close(gradient, reference_gradient, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_reported_cross_entropy_is_never_smoothed(model, batch, smoothing):
    # Guards: losses that cannot be compared between runs, and a report that takes part in training.
    logits, expected = reference(model, batch, 0.0)
    found = SlotLoss(model, smoothing)(*batch)
    torch.testing.assert_close(found.cross_entropy, expected.detach())
    assert not found.cross_entropy.requires_grad
    labels = batch[3].flatten()
    assert found.correct == (logits.argmax(-1) == labels).sum()
    assert not found.correct.requires_grad


def test_sums_of_parts_are_the_sum(model, batch):
    # Guards: an accumulated update that differs from a large batch.
    source, lengths, slots, labels = batch
    objective = SlotLoss(model, 0.1)
    whole = objective(*batch).smoothed
    parts = [
        objective(source[row], lengths[row], type(slots)(*(field[row] for field in slots)), labels[row]).smoothed
        for row in (slice(0, 1), slice(1, 4))
    ]
    torch.testing.assert_close(whole, sum(parts))


def test_a_batch_without_labels(model, batch):
    # Guards: NaN from a mean over nothing.
    source, lengths, slots, labels = batch
    found = SlotLoss(model, 0.1)(source, lengths, slots, torch.full_like(labels, NO_LABEL))
    assert (found.smoothed, found.cross_entropy, found.correct) == (0, 0, 0)
