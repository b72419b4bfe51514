"""Engines by name."""

import pytest
import torch

from multistride.engines.open import ENGINES, open_engine
from multistride.errors import UsageError
from multistride.model.config import TransformerConfig
from multistride.model.transformer import Transformer


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(1)
    sizes = {"hidden_size": 16, "feedforward_size": 32, "heads": 2, "encoder_layers": 1, "decoder_layers": 1}
    return Transformer(TransformerConfig(vocabulary_size=20, **sizes)).eval()


def test_an_unknown_name_is_refused_with_those_allowed(model):
    # Guards: a mistyped engine taken for the usual one.
    with pytest.raises(UsageError, match=rf"engine 'eagre' was asked for; allowed are {', '.join(ENGINES)}:"):
        open_engine(model, "eagre")


def test_eager_says_what_it_is(model):
    # Guards: results that name another engine or precision than the one that ran.
    engine = open_engine(model, "eager")
    assert (engine.name, engine.precision, engine.model) == ("eager", "float32", model)
