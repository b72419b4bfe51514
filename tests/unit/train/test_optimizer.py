"""What a step does to the weights, as the settings say."""

import pytest
import torch

from multistride import device
from multistride.train import optimizer
from multistride.train.checkpoint import Progress, load_state, save_state
from multistride.train.config import RunConfig, TrainingConfig
from multistride.train.optimizer import (
    build_optimizer,
    clip_gradients,
    matrices_of_layers,
    orthogonal,
)


def step(model, gradient=0.0, **settings):
    """The weights after one step in which every entry of every gradient is `gradient`."""
    optimizer = build_optimizer(model, TrainingConfig(**settings))
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
    (first, *_) = build_optimizer(
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


@pytest.fixture(params=["float32", "bfloat16"])
def precision(request, monkeypatch):
    """What the hardware multiplies well, whatever it is."""
    monkeypatch.setattr(optimizer, "pick_precision", lambda asked, device: request.param)
    return request.param


@pytest.mark.parametrize("shape", [(3, 16, 16), (2, 48, 16), (1, 16, 48)])
def test_orthogonal_keeps_directions_and_moves_singular_values_near_one(shape, precision):
    matrices = torch.randn(shape, generator=torch.Generator().manual_seed(3))
    found = orthogonal(matrices)
    values = torch.linalg.svdvals(found)
    assert values.min() > 0.6
    assert values.max() < 1.25
    nearest = torch.linalg.svd(matrices, full_matrices=False)
    exact = nearest.U @ nearest.Vh
    assert torch.nn.functional.cosine_similarity(found.flatten(1), exact.flatten(1)).min() > 0.97
    assert found.dtype == torch.float32
    assert torch.equal(found, found.bfloat16().float()) == (precision == "bfloat16")


def test_orthogonal_is_fast_on_hardware_without_bfloat16(monkeypatch):
    """PyTorch multiplies bfloat16 20 to 60 times as slowly there: half of the time of training."""
    monkeypatch.setattr(device, "cpu_features", lambda: ["avx2"])
    found = orthogonal(torch.randn(1, 16, 16, generator=torch.Generator().manual_seed(3)))
    assert not torch.equal(found, found.bfloat16().float())


def test_muon_is_for_the_matrices_of_layers(tiny):
    # Guards: tables of the vocabulary made orthogonal, and queries, keys and values taken for one
    # matrix.
    model = tiny()
    parts = matrices_of_layers(model)
    names = {name: weights for name, weights in model.named_parameters() if id(weights) in parts}
    assert all(name.startswith(("encoder.", "decoder.")) for name in names)
    inside = [
        name
        for name, weights in model.named_parameters()
        if name.startswith(("encoder.", "decoder.")) and weights.dim() == 2
    ]
    assert sorted(names) == sorted(inside)
    width = model.config.hidden_size
    split = {name for name, weights in names.items() if len(parts[id(weights)]) > 1}
    assert {len(parts[id(names[name])]) for name in split} == {2, 3}
    assert all(set(parts[id(names[name])]) == {width} for name in split)


@pytest.mark.parametrize("decay", [0.0, 0.3])
def test_muon_steps_as_pytorchs_own_on_each_matrix(tiny, decay, monkeypatch):
    """The oracle is `torch.optim.Muon` (bfloat16), one matrix at a time, and AdamW for the rest."""
    monkeypatch.setattr(optimizer, "pick_precision", lambda asked, device: "bfloat16")
    settings = {"learning_rate": 0.01, "weight_decay": decay}
    model, plain = tiny(), tiny()
    parts = {
        name: matrices_of_layers(plain)[id(weights)]
        for name, weights in plain.named_parameters()
        if id(weights) in matrices_of_layers(plain)
    }
    alone = {
        name: [torch.nn.Parameter(part.detach().clone()) for part in weights.split(parts[name])]
        for name, weights in plain.named_parameters()
        if name in parts
    }
    muon = build_optimizer(model, TrainingConfig(optimizer="muon", **settings))
    adamw = build_optimizer(plain, TrainingConfig(**settings))
    oracle = torch.optim.Muon(
        [each for pieces in alone.values() for each in pieces],
        lr=0.01,
        weight_decay=decay,
        momentum=0.95,
        adjust_lr_fn="match_rms_adamw",
    )
    generator = torch.Generator().manual_seed(5)
    for _ in range(3):
        plainly = dict(plain.named_parameters())
        for name, weights in model.named_parameters():
            weights.grad = torch.randn(weights.shape, generator=generator)
            plainly[name].grad = weights.grad.clone()
            if name in alone:
                gradients = weights.grad.split(parts[name])
                for piece, gradient in zip(alone[name], gradients, strict=True):
                    piece.grad = gradient.clone()
        for each in (muon, adamw, oracle):
            each.step()
    for name, weights in model.named_parameters():
        if name in alone:
            torch.testing.assert_close(weights, torch.cat(alone[name]), rtol=0, atol=2e-4)
        else:
            assert torch.equal(weights, dict(plain.named_parameters())[name])


def test_muon_goes_on_from_a_checkpoint(tiny, tmp_path):
    # Guards: momentum that a resumed run has lost, or that is loaded for other weights.
    settings = TrainingConfig(optimizer="muon", learning_rate=0.01)

    def stepped(model, optimizer, seed):
        generator = torch.Generator().manual_seed(seed)
        for weights in model.parameters():
            weights.grad = torch.randn(weights.shape, generator=generator)
        optimizer.step()

    model = tiny()
    optimizer = build_optimizer(model, settings)
    stepped(model, optimizer, 1)
    save_state(tmp_path, optimizer.state_dict(), Progress(update=1))
    resumed = tiny()
    resumed.load_state_dict(model.state_dict())
    other = build_optimizer(resumed, settings)
    assert load_state(tmp_path, other).update == 1
    for each, with_optimizer in ((model, optimizer), (resumed, other)):
        stepped(each, with_optimizer, 2)
    assert all(
        torch.equal(weights, resumed.state_dict()[name])
        for name, weights in model.state_dict().items()
    )


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"training": {"sharding": "full"}}, "a step needs whole matrices"),
        ({"start_from": "model", "adapter": {}}, "which an adapter leaves as they are"),
    ],
)
def test_muon_is_refused_where_it_has_no_whole_matrices(settings, reason):
    training = {**settings.pop("training", {}), "optimizer": "muon"}
    with pytest.raises(ValueError, match=reason):
        RunConfig(data="data", run="run", training=training, **settings)
