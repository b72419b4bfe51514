"""A tiny model and tiny data for tests of training."""

import random

import pytest
import torch

from multistride.data.prepare import prepare
from multistride.data.prepare_pairs import PrepareConfig
from multistride.model.config import TransformerConfig
from multistride.model.transformer import Transformer


@pytest.fixture
def data(tmp_path):
    """Return prepared data: 40 pairs of five letters and the same five letters."""
    chance = random.Random(1)
    lines = [" ".join(chance.choices("abcdefg", k=5)) for _ in range(40)]
    path = tmp_path / "text"
    path.write_text("\n".join(lines) + "\n")
    sides = {"source": path, "target": path}
    tree = {"train": [sides], "validation": [sides], "vocabulary_kind": "words"}
    prepare(PrepareConfig.model_validate({"output": tmp_path / "data", **tree}))
    return tmp_path / "data"


@pytest.fixture
def tiny():
    """Makes a model of a few thousand weights; the same seed gives the same weights."""

    def make(seed=1, **changes):
        torch.manual_seed(seed)
        sizes = {"vocabulary_size": 19, "hidden_size": 16, "feedforward_size": 16, "heads": 2}
        layers = {"encoder_layers": 1, "decoder_layers": 1, "max_group_size": 4, "dropout": 0.0}
        return Transformer(TransformerConfig(**{**sizes, **layers, **changes}))

    return make
