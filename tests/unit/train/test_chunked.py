"""The loss in chunks is the loss, and so are its gradients."""

import pytest
import torch
from torch.nn.functional import cross_entropy

from multistride.groups import NO_LABEL
from multistride.model.adapters import freeze_all_but_drafting
from multistride.model.config import AdapterConfig, TransformerConfig
from multistride.model.transformer import Transformer
from multistride.train import chunked
from multistride.train.chunked import chunked_cross_entropy, takes_chunks

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


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
@pytest.mark.parametrize("frozen", [True, False], ids=["frozen", "trained"])
@pytest.mark.parametrize(
    "choices",
    [{}, {"markov_rank": 4}, {"markov_rank": 4, "tie_embeddings": False, "output_bias": True}],
    ids=["plain", "markov", "untied"],
)
def test_chunks_give_the_whole_loss_and_its_gradients(choices, frozen, smoothing, monkeypatch):
    # Guards: a row lost between chunks, a head asked where it has no say, gradients that miss the
    # scale of the loss, smoothing over something else, a matrix that is never trained.
    monkeypatch.setattr(chunked, "ENTRIES", 7 * 50)
    torch.manual_seed(1)
    model = Transformer(TransformerConfig(**SHAPE, **choices))
    if frozen:
        freeze_all_but_drafting(model)
    if model.markov is not None:
        torch.nn.init.normal_(model.markov.following)
    hidden = torch.randn(30, 16, requires_grad=True)
    wanted = torch.randint(0, 50, (30,))
    previous = torch.where(torch.rand(30) < 0.3, NO_LABEL, torch.randint(0, 50, (30,)))
    head = model.target_embedding if model.config.tie_embeddings else model.output
    learned = [hidden, *(() if model.markov is None else model.markov.parameters())]
    if not frozen:
        learned += [head.weight, *(() if model.output_bias is None else [model.output_bias])]

    logits = model.project(hidden)
    if model.markov is not None:
        says = (previous != NO_LABEL)[:, None]
        logits = logits + torch.where(says, model.markov(previous.clamp(min=0)), 0)
    plain = cross_entropy(logits, wanted, reduction="sum")
    smoothed = cross_entropy(logits, wanted, reduction="sum", label_smoothing=smoothing)
    found = chunked_cross_entropy(model, hidden, wanted, previous, smoothing)
    torch.testing.assert_close(found.smoothed, smoothed)
    torch.testing.assert_close(found.cross_entropy, plain)
    assert not found.cross_entropy.requires_grad
    assert int(found.correct) == int((logits.argmax(-1) == wanted).sum())
    ours, theirs = (torch.autograd.grad(loss * 3, learned) for loss in (found.smoothed, smoothed))
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)
    with torch.no_grad():
        measured = chunked_cross_entropy(model, hidden, wanted, previous, smoothing)
    torch.testing.assert_close(measured.smoothed, smoothed.detach())


def test_capped_logits_are_no_single_product():
    # Guards: a cap that the chunks would leave out.
    assert takes_chunks(Transformer(TransformerConfig(**SHAPE)))
    assert not takes_chunks(Transformer(TransformerConfig(**SHAPE, output_cap=30.0)))
