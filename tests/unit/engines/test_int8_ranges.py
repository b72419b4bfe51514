"""Where activations of the int8 engine are rounded, and how."""

import numpy as np
import pytest
import torch

from multistride.engines.int8.ranges import FINAL, Roundings, observed
from multistride.model.config import TransformerConfig
from multistride.model.transformer import Transformer

SIZES = {"vocabulary_size": 40, "hidden_size": 16, "feedforward_size": 32, "heads": 2}


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(1)
    return Transformer(
        TransformerConfig(**SIZES, encoder_layers=1, decoder_layers=1, lookahead=True)
    ).eval()


def test_every_linear_layer_is_seen(model):
    # Guards: a layer that calibration does not reach, and whose range would be unknown when its
    # graph is built.
    layers = {name for name, layer in model.named_modules() if isinstance(layer, torch.nn.Linear)}
    assert set(observed(model).largest) == layers | {FINAL}


def test_ranges_are_the_same_every_time(model):
    # Guards: two exports of one model that write different texts.
    for first, second in zip(observed(model), observed(model), strict=True):
        assert first
        assert all(np.array_equal(first[name], second[name]) for name in first)


def test_a_causal_model_has_no_source():
    model = Transformer(TransformerConfig(**SIZES, encoder_layers=0, decoder_layers=1)).eval()
    assert FINAL in observed(model).largest


def test_no_channel_that_was_seen_is_cut_off(model):
    # Guards: a step taken before the channels were made alike, or of the wrong end of the range.
    seen, roundings = observed(model).largest, Roundings(model)
    place = "decoder.0.cross.query"
    normed = roundings.normed(place, alike=True)
    assert (seen[place] / normed.shrink / normed.step).max() <= 127
    assert len(set(normed.shrink)) > 1
    plain = roundings.normed(place, alike=False)
    assert set(plain.shrink) == {1.0}
    positive = roundings.other("decoder.0.feedforward.narrow", positive=True)
    assert positive.lowest == 0
    assert 150 < (seen["decoder.0.feedforward.narrow"] / positive.step).max() <= 255
