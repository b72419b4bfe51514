"""The Llama layout against the classes of transformers."""

import pytest
import torch
from originals import LLAMA3, assert_same_causal_model, converted_model, randomised
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Olmo2Config,
    Olmo2ForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

import multistride.hf  # noqa: F401  (its import makes model directories known to transformers)
from multistride.convert.run import convert

SIZES = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_hidden_layers": 2,
    "max_position_embeddings": 128,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 3,
}
LINEAR = {"rope_type": "linear", "rope_theta": 500.0, "factor": 2.5}
YARN = {
    "rope_type": "yarn",
    "rope_theta": 500.0,
    "factor": 4.0,
    "original_max_position_embeddings": 32,
}
LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 500.0,
    "partial_rotary_factor": 0.5,
    "short_factor": [1.0, 1.5],
    "long_factor": [2.0, 3.0],
    "original_max_position_embeddings": 96,
}
KINDS = {
    "llama": (LlamaForCausalLM, LlamaConfig, {"tie_word_embeddings": False}),
    "llama-biases": (
        LlamaForCausalLM,
        LlamaConfig,
        {"attention_bias": True, "mlp_bias": True, "head_dim": 16},
    ),
    "llama-3.1": (
        LlamaForCausalLM,
        LlamaConfig,
        {"rope_parameters": LLAMA3, "tie_word_embeddings": True},
    ),
    "linear": (LlamaForCausalLM, LlamaConfig, {"rope_parameters": LINEAR}),
    "yarn": (LlamaForCausalLM, LlamaConfig, {"rope_parameters": YARN}),
    "mistral": (MistralForCausalLM, MistralConfig, {"sliding_window": 5}),
    "qwen2-sliding": (
        Qwen2ForCausalLM,
        Qwen2Config,
        {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1},
    ),
    "phi3": (Phi3ForCausalLM, Phi3Config, {"sliding_window": 6}),
    "phi3-longrope": (
        Phi3ForCausalLM,
        Phi3Config,
        {
            "rope_parameters": LONGROPE,
            "original_max_position_embeddings": 96,
            "partial_rotary_factor": 0.5,
        },
    ),
    "olmo2": (Olmo2ForCausalLM, Olmo2Config, {}),
    "qwen2": (Qwen2ForCausalLM, Qwen2Config, {"tie_word_embeddings": True}),
    "qwen3": (Qwen3ForCausalLM, Qwen3Config, {"head_dim": 8, "tie_word_embeddings": True}),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_converted_model_is_the_original(kind, letters, tmp_path):
    """A wrong half of a rotation, order of heads, norm, bias or base shows in logits or in the
    tokens written."""
    directory, size = letters
    model, config, changes = KINDS[kind]
    theirs = randomised(model(config(vocab_size=size, **{**SIZES, **changes})))
    theirs.save_pretrained(directory)
    ours, vocabulary = converted_model(directory, tmp_path / "ours")
    assert ours.config.mask_token == vocabulary.mask == size
    assert_same_causal_model(theirs, ours, size)


def test_rows_that_no_token_stands_for_are_left_out(letters, tmp_path):
    """A mask whose vector is one of the rows that were never trained, and a head that can write
    them."""
    directory, size = letters
    theirs = randomised(LlamaForCausalLM(LlamaConfig(vocab_size=size + 7, **SIZES)))
    theirs.save_pretrained(directory)
    ours, vocabulary = converted_model(directory, tmp_path / "ours")
    table, original = ours.target_embedding.weight, theirs.model.embed_tokens.weight
    assert len(table) == len(vocabulary) == size + 1
    assert table[:size].equal(original[:size])
    torch.testing.assert_close(table[size], original[:size].mean(0))


def test_the_precision_of_the_original_is_kept(letters, tmp_path):
    """A checkpoint that doubles its size, or loses bits, on the way."""
    directory, size = letters
    theirs = randomised(LlamaForCausalLM(LlamaConfig(vocab_size=size, **SIZES))).to(torch.bfloat16)
    theirs.save_pretrained(directory)
    ours, _ = converted_model(directory, tmp_path / "ours")
    assert torch.equal(ours.decoder_norm.weight, theirs.model.norm.weight.float())
    stored = (tmp_path / "ours" / "model.safetensors").stat().st_size
    assert stored < 2.5 * sum(parameter.numel() for parameter in theirs.parameters())


def test_transformers_keeps_the_window(letters, tmp_path):
    """Positions of cached slots that transformers' own caches do not keep; padding on the left."""
    directory, size = letters
    model, config, changes = KINDS["mistral"]
    theirs = randomised(model(config(vocab_size=size, **{**SIZES, **changes})))
    theirs.save_pretrained(directory)
    convert(str(directory), tmp_path / "ours")
    ours = AutoModelForCausalLM.from_pretrained(tmp_path / "ours")
    tokens = torch.tensor([[3, 3, 3, 9, 20, 31, 12, 8], [11, 14, 9, 30, 7, 22, 10, 6]])
    real = (tokens != 3).long()
    settings = {"max_new_tokens": 12, "do_sample": False, "pad_token_id": 3}
    expected = theirs.generate(tokens, attention_mask=real, **settings)
    assert ours.generate(tokens, attention_mask=real, **settings).equal(expected)
    own = ours.generate(tokens, attention_mask=real, custom_generate=None, **settings)
    assert own.equal(expected)
