"""The loss in chunks is the loss, and so are its gradients."""

import pytest
import torch

from multistride.groups import NO_LABEL
from multistride.model.adapters import freeze_all_but_drafting
from multistride.model.config import AdapterConfig, TransformerConfig
from multistride.model.transformer import Transformer
from multistride.train import chunked
from multistride.train.chunked import chunked_cross_entropy, has_frozen_output

SHAPE = {
    "vocabulary_size": 50,
    "hidden_size": 16,
    "feedforward_size": 24,
    "heads": 2,
    "encoder_layers": 0,
    "decoder_layers": 2,
    "positions": "rotary",
    "max_positions": 32,
    "dropout": 0.0,
    "adapter": AdapterConfig(rank=4, layers=1),
}


@pytest.mark.parametrize(
    "choices",
    [{}, {"markov_rank": 4}, {"markov_rank": 4, "tie_embeddings": False, "output_bias": True}],
)
def test_chunks_give_the_whole_loss_and_its_gradients(choices, monkeypatch):
    # Guards: a row lost between chunks, a head asked where it has no say, gradients that miss the
    # scale of the loss.
    monkeypatch.setattr(chunked, "ROWS", 7)
    torch.manual_seed(1)
    model = Transformer(TransformerConfig(**SHAPE, **choices))
    freeze_all_but_drafting(model)
    if model.markov is not None:
        torch.nn.init.normal_(model.markov.following)
    hidden = torch.randn(30, 16, requires_grad=True)
    wanted = torch.randint(0, 50, (30,))
    previous = torch.where(torch.rand(30) < 0.3, NO_LABEL, torch.randint(0, 50, (30,)))

    def gradients(loss):
        learned = [hidden, *(() if model.markov is None else model.markov.parameters())]
        return torch.autograd.grad(loss * 3, learned)

    logits = model.project(hidden)
    if model.markov is not None:
        says = (previous != NO_LABEL)[:, None]
        logits = logits + torch.where(says, model.markov(previous.clamp(min=0)), 0)
    expected = torch.nn.functional.cross_entropy(logits, wanted, reduction="sum")
    loss, correct = chunked_cross_entropy(model, hidden, wanted, previous)
    torch.testing.assert_close(loss, expected)
    assert int(correct) == int((logits.argmax(-1) == wanted).sum())
    for one, other in zip(gradients(loss), gradients(expected), strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


def test_it_is_for_frozen_outputs_only():
    # Guards: an output matrix that would never be trained.
    model = Transformer(TransformerConfig(**SHAPE))
    assert not has_frozen_output(model)
    freeze_all_but_drafting(model)
    assert has_frozen_output(model)
    plain = Transformer(TransformerConfig(**{**SHAPE, "adapter": None}))
    freeze_all_but_drafting(plain)
    assert not has_frozen_output(plain)
