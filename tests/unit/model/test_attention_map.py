"""Attention weights computed beside the fused kernel are those that it used."""

import torch

from multistride.evaluate.attention_map import cross_attention, explicit
from multistride.groups import equal_sizes, teacher_forced
from multistride.model.config import TransformerConfig
from multistride.model.transformer import Transformer

CONFIG = TransformerConfig(
    vocabulary_size=30,
    hidden_size=32,
    feedforward_size=64,
    heads=4,
    encoder_layers=2,
    decoder_layers=3,
    max_positions=32,
    group_sizes=(1, 2, 4),
)


def test_explicit_attention_gives_the_fused_output():
    # Guards: a scale, a mask or a head order other than the kernel's: then the map shows what
    # nobody looked at.
    torch.manual_seed(0)
    cross = Transformer(CONFIG).eval().decoder[0].cross
    hidden, source = torch.randn(2, 5, 32), cross.project(torch.randn(2, 7, 32))
    mask = (torch.arange(7) < torch.tensor([[7], [4]]))[:, None, None]
    with torch.inference_mode():
        for given in (None, mask):
            weights, output = explicit(cross, hidden, source, given)
            torch.testing.assert_close(output, cross(hidden, source, given))
            torch.testing.assert_close(weights.sum(-1), torch.ones(2, 4, 5))
    assert weights[1, :, :, 4:].abs().max() == 0


def test_one_sentence():
    # Guards: layers mixed up, hooks left behind.
    torch.manual_seed(1)
    model = Transformer(CONFIG).eval()
    target, lengths = torch.randint(5, 30, (1, 6)), torch.tensor([6])
    slots, _ = teacher_forced(target, lengths, equal_sizes(lengths, 4), CONFIG.start_token)
    source = torch.randint(5, 30, (1, 9))
    weights = cross_attention(model, source, torch.tensor([9]), slots)
    assert weights.shape == (3, 4, 8, 9)
    torch.testing.assert_close(weights.sum(-1), torch.ones(3, 4, 8))
    assert not any(layer.cross._forward_hooks for layer in model.decoder)
