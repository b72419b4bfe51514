"""A model and sources that every equivalence is shown on."""

import pytest
import torch

from multistride.model.config import TransformerConfig
from multistride.model.transformer import Transformer

GROUP_SIZES = (1, 2, 3, 4, 8)


@pytest.fixture(params=["pre", "post"], scope="module")
def model(request):
    """A small random model whose outputs vary, end at different lengths, and do use the reach."""
    torch.manual_seed(3)
    config = TransformerConfig(
        vocabulary_size=40,
        hidden_size=32,
        feedforward_size=64,
        heads=4,
        encoder_layers=2,
        decoder_layers=2,
        norm=request.param,
        positions="learned" if request.param == "post" else "sinusoidal",
        max_positions=64,
        max_group_size=8,
        group_sizes=GROUP_SIZES,
    )
    transformer = Transformer(config).eval()
    with torch.no_grad():
        for parameter in transformer.parameters():
            parameter.mul_(1.5)
        transformer.reach.beyond_one.weight[1:].normal_(std=0.5)
    return transformer


@pytest.fixture(scope="module")
def sources():
    generator = torch.Generator().manual_seed(5)
    lengths = torch.randint(0, 12, (24,), generator=generator).tolist()
    return [torch.randint(5, 40, (length,), generator=generator).tolist() for length in lengths]
