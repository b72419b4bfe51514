"""The bricks of converted models. That they are put together rightly is shown against
transformers."""

import json

import pytest
import torch
from pydantic import ValidationError

from multistride.model.config import RotaryScaling, TransformerConfig
from multistride.model.layers import RotaryPositions, rotated, slowed
from multistride.model.transformer import Transformer


def rotary(**changes):
    return TransformerConfig(
        vocabulary_size=12, hidden_size=16, heads=2, positions="rotary", **changes
    )


def test_a_configuration_without_new_choices_is_written_as_before():
    """A new key in config.json makes every earlier version refuse a model that it could read."""
    stored = TransformerConfig(vocabulary_size=9).stored()
    assert list(stored)[-1] == "mask_token"
    assert "norm_kind" not in stored
    with_choice = TransformerConfig(vocabulary_size=9, norm_kind="rms")
    assert (
        TransformerConfig.model_validate(json.loads(json.dumps(with_choice.stored())))
        == with_choice
    )


def test_attention_sees_differences_of_places_only():
    """Rotating queries and keys by different rules shows as a product that depends on the place
    itself."""
    rotation = RotaryPositions(rotary())
    torch.manual_seed(1)
    query, key = torch.randn(2, 1, 1, 1, 8)

    def product(first, second):
        turned = [
            rotated(vector, rotation(torch.tensor([[place]])))
            for vector, place in ((query, first), (key, second))
        ]
        return float((turned[0] * turned[1]).sum())

    assert product(9, 4) == pytest.approx(product(25, 20), abs=1e-5)
    assert product(9, 4) != pytest.approx(product(9, 5), abs=1e-3)


def test_only_start_symbols_further_back_than_the_first_have_vectors():
    """Slots of the first group that read the same symbol would all write the same token; K=1 must
    not change."""
    positions = RotaryPositions(rotary(max_group_size=3))
    place = torch.tensor([[0, 0, 1, 2, 3, 0]])
    reach = torch.tensor([[1, 3, 3, 3, 3, 2]])
    vectors = positions.starts(place, reach)[0]
    assert [bool(vector.any()) for vector in vectors] == [False, True, True, False, False, True]
    assert torch.equal(vectors[2], vectors[5])
    assert not torch.equal(vectors[1], vectors[2])


def test_slow_rotations_are_slowed_and_fast_ones_are_not():
    scaling = RotaryScaling(factor=8, low_frequency=1, high_frequency=4, original_positions=1000)
    fast, slow = 0.1, 0.001
    result = slowed(torch.tensor([fast, slow]), scaling)
    assert result.tolist() == pytest.approx([fast, slow / 8])


def test_untied_models_may_have_an_output_bias():
    """A bias that is forgotten in one of the two ways to logits."""
    config = TransformerConfig(vocabulary_size=12, hidden_size=16, heads=2, output_bias=True)
    for tied in (True, False):
        model = Transformer(config.model_copy(update={"tie_embeddings": tied}))
        hidden = torch.randn(3, 16)
        before = model.project(hidden)
        with torch.no_grad():
            model.output_bias.copy_(torch.arange(12.0))
        torch.testing.assert_close(model.project(hidden), before + torch.arange(12.0))


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"key_value_heads": 3}, "key_value_heads is 3; it must divide heads (4)"),
        (
            {"head_size": 5, "positions": "rotary"},
            "a head is 5 wide; rotary positions need an even width",
        ),
        ({"separate_positions": True}, "only an encoder-decoder with learned positions has any"),
        ({"start_symbol": False}, "only a causal model (encoder_layers 0) can do without"),
    ],
)
def test_choices_that_do_not_fit_are_refused(choices, message):
    with pytest.raises(ValidationError) as caught:
        TransformerConfig(**choices)
    assert message in str(caught.value)
