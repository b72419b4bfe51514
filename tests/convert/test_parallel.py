"""GPT-NeoX and Phi against the classes of transformers."""

import pytest
from originals import assert_same_causal_model, converted_model, randomised
from safetensors.torch import load_file, save_file
from test_llama import SIZES as LLAMA_SIZES
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM, PhiConfig, PhiForCausalLM

SIZES = {name: value for name, value in LLAMA_SIZES.items() if name != "num_key_value_heads"}
HALF = {"rope_type": "default", "rope_theta": 500.0, "partial_rotary_factor": 0.5}
KINDS = {
    "neox": (GPTNeoXForCausalLM, GPTNeoXConfig, {"rope_parameters": HALF}),
    "neox-sequential": (GPTNeoXForCausalLM, GPTNeoXConfig, {"use_parallel_residual": False}),
    "phi": (PhiForCausalLM, PhiConfig, {"rope_parameters": HALF, "num_key_value_heads": 2}),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_converted_model_is_the_original(kind, letters, tmp_path):
    """Heads cut the wrong way, a rotation of the wrong coordinates, sublayers that read each
    other's output, a bias of the vocabulary forgotten."""
    directory, size = letters
    model, config, changes = KINDS[kind]
    theirs = randomised(model(config(vocab_size=size, **{**SIZES, **changes})))
    theirs.save_pretrained(directory)
    ours, _ = converted_model(directory, tmp_path / "ours")
    assert ours.config.parallel_sublayers == (kind != "neox-sequential")
    assert_same_causal_model(theirs, ours, size)


def test_pythia_calls_the_output_matrix_otherwise(letters, tmp_path):
    """Files of Pythia on the hub: `embed_out`, and masks among the weights."""
    directory, size = letters
    model, config, _ = KINDS["neox"]
    theirs = randomised(model(config(vocab_size=size, **SIZES)))
    theirs.save_pretrained(directory)
    path = directory / "model.safetensors"
    tensors = load_file(path)
    head = tensors.pop("lm_head.weight" if "lm_head.weight" in tensors else "embed_out.weight")
    mask = tensors["gpt_neox.final_layer_norm.bias"].clone()
    old = {"embed_out.weight": head, "gpt_neox.layers.0.attention.masked_bias": mask}
    save_file({**tensors, **old}, path)
    ours, _ = converted_model(directory, tmp_path / "ours")
    assert_same_causal_model(theirs, ours, size)
