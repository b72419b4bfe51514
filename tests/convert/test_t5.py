"""T5 against the classes of transformers."""

import pytest
import torch
from originals import assert_same_translator, converted_model, randomised, small_tokenizer
from transformers import (
    MT5Config,
    MT5ForConditionalGeneration,
    T5Config,
    T5ForConditionalGeneration,
)

SPECIAL = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
SIZES = {
    "d_model": 32,
    "d_kv": 8,
    "d_ff": 48,
    "num_layers": 2,
    "num_heads": 4,
    "relative_attention_num_buckets": 8,
    "relative_attention_max_distance": 10,
    "pad_token_id": 0,
    "eos_token_id": 1,
    "decoder_start_token_id": 0,
}
KINDS = {
    "t5": (T5ForConditionalGeneration, T5Config, {}),
    "t5-1.1": (
        T5ForConditionalGeneration,
        T5Config,
        {
            "feed_forward_proj": "gated-gelu",
            "tie_word_embeddings": False,
            "num_decoder_layers": 1,
            "d_kv": 16,
        },
    ),
    "mt5": (
        MT5ForConditionalGeneration,
        MT5Config,
        {"feed_forward_proj": "gated-gelu", "d_kv": 16},
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_converted_model_is_the_original(kind, tmp_path):
    """A bias in the wrong bucket or head, a scale of attention or of the last states forgotten."""
    model, config, changes = KINDS[kind]
    size = small_tokenizer(tmp_path / "theirs", "$A </s>", **SPECIAL)
    theirs = randomised(model(config(vocab_size=size, **{**SIZES, **changes})))
    theirs.save_pretrained(tmp_path / "theirs")
    ours, _ = converted_model(tmp_path / "theirs", tmp_path / "ours")
    assert_same_translator(theirs, ours, size)


def test_scales_that_are_powers_of_two_keep_the_precision(tmp_path):
    """Heads of 64, as all T5 have: queries times 8, exact in bfloat16 too."""
    size = small_tokenizer(tmp_path / "theirs", "$A </s>", **SPECIAL)
    changes = {"d_kv": 64, "num_heads": 1}
    theirs = T5ForConditionalGeneration(T5Config(vocab_size=size, **{**SIZES, **changes}))
    theirs.to(torch.bfloat16).save_pretrained(tmp_path / "theirs")
    ours, _ = converted_model(tmp_path / "theirs", tmp_path / "ours")
    query = theirs.decoder.block[0].layer[1].EncDecAttention.q.weight
    assert ours.decoder[0].cross.query.weight.equal(query.float() * 8)
    stored = (tmp_path / "ours" / "model.safetensors").stat().st_size
    assert stored < 2.6 * sum(parameter.numel() for parameter in theirs.parameters())
