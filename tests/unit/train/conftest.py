"""A tiny model for tests of training."""

import pytest
import torch

from multistride.model.config import TransformerConfig
from multistride.model.transformer import Transformer


@pytest.fixture
def tiny():
    """Makes a model of a few thousand weights; the same seed gives the same weights."""

    def make(seed=1, **changes):
        torch.manual_seed(seed)
        sizes = {"vocabulary_size": 19, "hidden_size": 16, "feedforward_size": 16, "heads": 2}
        layers = {"encoder_layers": 1, "decoder_layers": 1, "max_group_size": 4, "dropout": 0.0}
        return Transformer(TransformerConfig(**{**sizes, **layers, **changes}))

    return make
