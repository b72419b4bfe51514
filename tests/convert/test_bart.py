"""BART, mBART and Marian against the classes of transformers."""

import pytest
from safetensors.torch import load_file, save_file
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    MarianConfig,
    MarianMTModel,
    MBartConfig,
    MBartForConditionalGeneration,
)

from conftest import assert_same_translator, converted_model, randomised, small_tokenizer
from multistride.errors import DataError

SIZES = {
    "d_model": 32,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_layers": 2,
    "decoder_layers": 1,
    "max_position_embeddings": 64,
    "forced_eos_token_id": None,
}
SPECIAL = {"bos_token": "<s>", "pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
BART = {"bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 2}
MARIAN = {"pad_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1, "scale_embedding": True}
KINDS = {
    "bart": (BartForConditionalGeneration, BartConfig, BART, "<s> $A </s>"),
    "mbart": (MBartForConditionalGeneration, MBartConfig, {**BART, "scale_embedding": True}, "$A </s>"),
    "marian": (MarianMTModel, MarianConfig, {**MARIAN, "activation_function": "swish"}, "$A </s>"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_converted_model_is_the_original(kind, tmp_path):
    """Tables that begin two rows late, a norm on the wrong side, a bias forgotten, EOS that is never written."""
    model, config, special, template = KINDS[kind]
    size = small_tokenizer(tmp_path / "theirs", template, **SPECIAL)
    theirs = randomised(model(config(vocab_size=size, **SIZES, **special)))
    theirs.final_logits_bias.normal_()
    theirs.generation_config.forced_eos_token_id = None
    theirs.save_pretrained(tmp_path / "theirs")
    ours, vocabulary = converted_model(tmp_path / "theirs", tmp_path / "ours")
    assert_same_translator(theirs, ours, size)
    assert vocabulary.decode(vocabulary.encode(["a b"])[0]) == "a b"


def test_stored_sinusoids_that_are_none_are_refused(tmp_path):
    """A table that is not the one computed here would be left out silently."""
    size = small_tokenizer(tmp_path / "theirs", "$A </s>", **SPECIAL)
    theirs = MarianMTModel(MarianConfig(vocab_size=size, **SIZES, **MARIAN))
    theirs.save_pretrained(tmp_path / "theirs")
    file = tmp_path / "theirs" / "model.safetensors"
    table = theirs.model.encoder.embed_positions.weight.detach() + 0.1
    save_file({**load_file(file), "model.encoder.embed_positions.weight": table}, file)
    with pytest.raises(DataError, match="sinusoids other than"):
        converted_model(tmp_path / "theirs", tmp_path / "ours")


def test_a_bias_of_zeros_is_left_out(tmp_path):
    size = small_tokenizer(tmp_path / "theirs", "$A </s>", **SPECIAL)
    theirs = BartForConditionalGeneration(BartConfig(vocab_size=size, **SIZES, **BART))
    theirs.save_pretrained(tmp_path / "theirs")
    ours, vocabulary = converted_model(tmp_path / "theirs", tmp_path / "ours")
    assert not ours.config.output_bias
    assert (vocabulary.bos, vocabulary.eos) == (2, 2)
    assert ours.config.unpicked == (size,)
