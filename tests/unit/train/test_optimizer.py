"""What a step does to the weights, as the settings say."""

import pytest
import torch

from multistride.train.config import TrainingConfig
from multistride.train.optimizer import adamw, clip_gradients


def step(model, gradient=0.0, **settings):
    """The weights after one step in which every entry of every gradient is `gradient`."""
    optimizer = adamw(model, TrainingConfig(**settings))
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, gradient)
    optimizer.step()
    return dict(model.named_parameters())


def test_weight_decay_is_for_matrices_only(tiny):
    # Guards: embeddings, norms and biases pulled to zero, and a decay that the gradient's scale
    # changes.
    before = {name: weights.detach().clone() for name, weights in tiny().named_parameters()}
    after = step(tiny(), learning_rate=0.1, weight_decay=0.5)
    decayed = {name for name in before if not torch.equal(before[name], after[name])}
    assert decayed == {
        name
        for name in before
        if "weight" in name and "norm" not in name and "embedding" not in name
    } - {"reach.beyond_one.weight"}
    for name in decayed:
        torch.testing.assert_close(after[name].detach(), before[name] * (1 - 0.1 * 0.5))


def test_betas_reach_the_optimiser(tiny):
    # Guards: a setting that is read and never used.
    (first, *_) = adamw(
        tiny(), TrainingConfig(adam_betas=(0.5, 0.7), learning_rate=0.3)
    ).param_groups
    assert (first["betas"], first["lr"], first["eps"]) == ((0.5, 0.7), 0.3, 1e-9)


@pytest.mark.parametrize("norm", [0.0, 0.5, 100.0])
def test_clipping_by_norm(norm):
    # Guards: a norm per tensor, and 0 read as "clip everything away".
    parameters = [torch.nn.Parameter(torch.zeros(3)), torch.nn.Parameter(torch.zeros(2, 2))]
    for parameter in parameters:
        parameter.grad = torch.full_like(parameter, 2.0)
    found = clip_gradients(parameters, TrainingConfig(clip_norm=norm))
    whole = 2.0 * 7**0.5
    assert found == pytest.approx(whole)
    scale = min(1.0, norm / whole) if norm else 1.0
    assert all(
        parameter.grad.flatten().tolist()
        == pytest.approx([2 * scale] * parameter.numel(), rel=1e-4)
        for parameter in parameters
    )


def test_clipping_by_value_comes_before_the_norm():
    # Guards: an outlier that takes the whole norm although it was to be cut.
    parameter = torch.nn.Parameter(torch.zeros(3))
    parameter.grad = torch.tensor([-9.0, 0.1, 0.3])
    assert clip_gradients(
        [parameter], TrainingConfig(clip_value=0.2, clip_norm=0.0)
    ) == pytest.approx(0.3)
    assert parameter.grad.tolist() == pytest.approx([-0.2, 0.1, 0.2])
