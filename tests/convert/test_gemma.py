"""The Gemma layouts against the classes of transformers."""

import json

import pytest
import torch
from originals import assert_same_causal_model, converted_model, randomised, small_tokenizer
from test_llama import SIZES as LLAMA_SIZES
from tokenizers import Tokenizer
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GemmaConfig,
    GemmaForCausalLM,
)

SIZES = {**LLAMA_SIZES, "head_dim": 8, "num_hidden_layers": 3}
ROPE3 = {
    "full_attention": {"rope_type": "linear", "factor": 4.0, "rope_theta": 1000.0},
    "sliding_attention": {"rope_type": "default", "rope_theta": 50.0},
}
KINDS = {
    "gemma": (GemmaForCausalLM, GemmaConfig, {}),
    "gemma2": (
        Gemma2ForCausalLM,
        Gemma2Config,
        {
            "sliding_window": 5,
            "query_pre_attn_scalar": 12,
            "attn_logit_softcapping": 2.0,
            "final_logit_softcapping": 3.0,
        },
    ),
    "gemma3": (
        Gemma3ForCausalLM,
        Gemma3TextConfig,
        {
            "sliding_window": 4,
            "query_pre_attn_scalar": 12,
            "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
            "rope_parameters": ROPE3,
        },
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_converted_model_is_the_original(kind, letters, tmp_path):
    """A norm that does not add one, a cap that is missing, a window or a rotation in the wrong
    layer."""
    directory, size = letters
    model, config, changes = KINDS[kind]
    theirs = randomised(model(config(vocab_size=size, **{**SIZES, **changes})))
    theirs.save_pretrained(directory)
    ours, _ = converted_model(directory, tmp_path / "ours")
    assert_same_causal_model(theirs, ours, size)


def test_older_files_of_gemma3_name_bases_otherwise(letters, tmp_path):
    """Files of transformers 4: `rope_local_base_freq`, a pattern in place of kinds of layers, and
    bases that are left out."""
    directory, size = letters
    changes = {"sliding_window": 4, "layer_types": None}
    theirs = randomised(Gemma3ForCausalLM(Gemma3TextConfig(vocab_size=size, **SIZES, **changes)))
    theirs.save_pretrained(directory)
    path = directory / "config.json"
    config = json.loads(path.read_text())
    for name in ("rope_parameters", "layer_types"):
        del config[name]
    path.write_text(json.dumps({**config, "sliding_window_pattern": 6, "rope_theta": 1e6}))
    ours, _ = converted_model(directory, tmp_path / "ours")
    assert ours.config.window_rotary_base == 10_000.0
    assert ours.config.window_layers is None
    assert_same_causal_model(theirs, ours, size)


def test_norms_of_gemma_keep_their_bits(letters, tmp_path):
    """One added in bfloat16: weights that lose their last bits."""
    directory, size = letters
    theirs = randomised(GemmaForCausalLM(GemmaConfig(vocab_size=size, **SIZES))).to(torch.bfloat16)
    theirs.save_pretrained(directory)
    ours, _ = converted_model(directory, tmp_path / "ours")
    assert ours.decoder_norm.weight.equal(theirs.model.norm.weight.float() + 1)


def test_a_token_that_only_the_tokenizer_has_is_never_written(tmp_path):
    """Gemma 3 of 1B: a tokenizer with one token for images more than the model has rows."""
    special = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
    size = small_tokenizer(tmp_path / "theirs", **special)
    tokenizer = Tokenizer.from_file(str(tmp_path / "theirs" / "tokenizer.json"))
    tokenizer.add_special_tokens(["<image>"])
    tokenizer.save(str(tmp_path / "theirs" / "tokenizer.json"))
    model, config, changes = KINDS["gemma3"]
    theirs = randomised(model(config(vocab_size=size, **{**SIZES, **changes})))
    theirs.save_pretrained(tmp_path / "theirs")
    ours, vocabulary = converted_model(tmp_path / "theirs", tmp_path / "ours")
    assert len(vocabulary) == ours.config.vocabulary_size == size + 2
    assert ours.config.never_written == (size, size + 1)
    table = ours.target_embedding.weight
    assert table[size].equal(table[size + 1])
    assert_same_causal_model(theirs, ours, size)
