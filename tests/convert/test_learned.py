"""OPT and GPT-Neo against the classes of transformers."""

import pytest
from originals import assert_same_causal_model, converted_model, randomised
from transformers import GPTNeoConfig, GPTNeoForCausalLM, OPTConfig, OPTForCausalLM

from multistride.errors import DataError

SPECIAL = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 3}
SIZES = {"hidden_size": 32, "max_position_embeddings": 96, **SPECIAL}
OPT = {"ffn_dim": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
NEO = {
    "intermediate_size": 48,
    "num_layers": 2,
    "num_heads": 2,
    "attention_types": [[["global", "local"], 1]],
    "window_size": 5,
}
KINDS = {
    "opt": (OPTForCausalLM, OPTConfig, OPT),
    "gpt-neo": (GPTNeoForCausalLM, GPTNeoConfig, NEO),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_converted_model_is_the_original(kind, letters, tmp_path):
    """A table of positions off by one, a scale of attention, a window in the wrong layer."""
    directory, size = letters
    model, config, sizes = KINDS[kind]
    theirs = randomised(model(config(vocab_size=size, **SIZES, **sizes)))
    theirs.save_pretrained(directory)
    ours, _ = converted_model(directory, tmp_path / "ours")
    assert_same_causal_model(theirs, ours, size)


def test_the_one_opt_with_projections_is_refused(letters, tmp_path):
    directory, size = letters
    config = OPTConfig(vocab_size=size, **SIZES, **OPT, word_embed_proj_dim=16)
    OPTForCausalLM(config).save_pretrained(directory)
    with pytest.raises(DataError, match="embeddings of another width than its layers"):
        converted_model(directory, tmp_path / "ours")
