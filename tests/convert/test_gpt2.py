"""The GPT-2 layout against the class of transformers."""

import pytest
from originals import assert_same_causal_model, converted_model, randomised
from safetensors.torch import load_file, save_file
from transformers import GPT2Config, GPT2LMHeadModel

SIZES = {
    "n_embd": 32,
    "n_head": 4,
    "n_layer": 2,
    "n_positions": 64,
    "bos_token_id": 2,
    "eos_token_id": 2,
}


@pytest.mark.parametrize("front", ["transformer.", ""])
def test_a_converted_model_is_the_original(front, letters, tmp_path):
    """Positions that are not shifted by one, matrices that are not turned, and names of older
    files."""
    directory, size = letters
    theirs = randomised(GPT2LMHeadModel(GPT2Config(vocab_size=size, **SIZES)))
    theirs.save_pretrained(directory)
    file = directory / "model.safetensors"
    tensors = load_file(file)
    save_file(
        {name.replace("transformer.", front): tensor for name, tensor in tensors.items()}, file
    )
    ours, _ = converted_model(directory, tmp_path / "ours")
    assert_same_causal_model(theirs, ours, size)


def test_the_last_place_of_the_context_is_its_own(letters, tmp_path):
    """A table that is cut one row short gives the last token the place of the one before it."""
    directory, size = letters
    theirs = randomised(GPT2LMHeadModel(GPT2Config(vocab_size=size, **SIZES)))
    theirs.save_pretrained(directory)
    ours, _ = converted_model(directory, tmp_path / "ours")
    table, original = ours.position.table, theirs.transformer.wpe.weight
    assert table[64].equal(original[63])
    assert table[-1].equal(original[63])
    assert not table[63].equal(original[63])
