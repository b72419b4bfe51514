"""The objective against PyTorch's own cross-entropy."""

import pytest
import torch
from torch.nn.functional import cross_entropy

from multistride.groups import NO_LABEL, Slots, equal_sizes, previous_in_group, teacher_forced
from multistride.model.config import TransformerConfig
from multistride.model.transformer import Transformer
from multistride.train.layouts import TrainingPass
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
    slots, labels = teacher_forced(
        target, lengths, equal_sizes(lengths, torch.tensor([1, 4, 2, 3])), 1
    )
    return source, lengths, TrainingPass(slots, labels, previous_in_group(slots, labels))


def reference(model, batch, smoothing):
    source, lengths, asked = batch
    logits = model.project(model(source, lengths, asked.slots)).flatten(0, 1)
    return logits, cross_entropy(
        logits,
        asked.labels.flatten(),
        ignore_index=NO_LABEL,
        reduction="sum",
        label_smoothing=smoothing,
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
    labels = batch[2].labels.flatten()
    assert found.correct == (logits.argmax(-1) == labels).sum()
    assert not found.correct.requires_grad


def test_sums_of_parts_are_the_sum(model, batch):
    # Guards: an accumulated update that differs from a large batch.
    source, lengths, (slots, labels, previous, *_) = batch
    objective = SlotLoss(model, 0.1)
    whole = objective(*batch).smoothed
    parts = [
        objective(
            source[row],
            lengths[row],
            TrainingPass(Slots(*(field[row] for field in slots)), labels[row], previous[row]),
        ).smoothed
        for row in (slice(0, 1), slice(1, 4))
    ]
    torch.testing.assert_close(whole, sum(parts))


def test_a_batch_without_labels(model, batch):
    # Guards: NaN from a mean over nothing.
    source, lengths, asked = batch
    unlabelled = asked._replace(labels=torch.full_like(asked.labels, NO_LABEL))
    found = SlotLoss(model, 0.1)(source, lengths, unlabelled)
    assert (found.smoothed, found.cross_entropy, found.correct) == (0, 0, 0)


def with_markov_head(model):
    config = model.config.model_copy(update={"markov_rank": 3})
    torch.manual_seed(4)
    corrected = Transformer(config)
    corrected.load_state_dict({**corrected.state_dict(), **model.state_dict()})
    return corrected


def test_a_new_markov_head_changes_nothing(model, batch):
    # Guards: a warm start that is thrown away by what is added to it.
    found, expected = SlotLoss(with_markov_head(model), 0.1)(*batch), SlotLoss(model, 0.1)(*batch)
    torch.testing.assert_close(found.smoothed, expected.smoothed)


def test_a_markov_head_scores_by_the_token_before(model, batch):
    # Guards: a correction by the wrong token, of the first slot of a group, or lost in the loss.
    corrected = with_markov_head(model)
    torch.nn.init.normal_(corrected.markov.following)
    logits, _ = reference(model, batch, 0.0)
    labels, previous = batch[2].labels.flatten(), batch[2].previous.flatten()
    matrix = corrected.markov.previous.weight @ corrected.markov.following.T
    for place, token in enumerate(previous.tolist()):
        if token != NO_LABEL:
            logits[place] = logits[place] + matrix[token]
    expected = cross_entropy(logits, labels, ignore_index=NO_LABEL, reduction="sum")
    torch.testing.assert_close(SlotLoss(corrected, 0.0)(*batch).cross_entropy, expected.detach())


def test_r_drop_is_the_divergence_of_two_readings(model, batch):
    # Guards: a divergence in one direction, of logits, with another weight, or paid for in
    # validation.
    noisy = Transformer(model.config.model_copy(update={"dropout": 0.3}))
    noisy.load_state_dict(model.state_dict())
    objective = SlotLoss(noisy, 0.1, r_drop=2.0).train()
    torch.manual_seed(6)
    found = objective(*batch)
    torch.manual_seed(6)
    source, lengths, (slots, labels, *_) = batch
    asked = labels != NO_LABEL
    readings = [noisy.project(noisy(source, lengths, slots))[asked] for _ in range(2)]
    one, other = (torch.distributions.Categorical(logits=logits) for logits in readings)
    both_ways = torch.distributions.kl_divergence(one, other) + torch.distributions.kl_divergence(
        other, one
    )
    plain = [
        cross_entropy(logits, labels[asked], reduction="sum", label_smoothing=0.1)
        for logits in readings
    ]
    torch.testing.assert_close(found.smoothed, sum(plain) / 2 + 2.0 / 4 * both_ways.sum())
    assert both_ways.sum() > 1
    torch.testing.assert_close(
        objective.eval()(*batch).smoothed, SlotLoss(model, 0.1).eval()(*batch).smoothed
    )
