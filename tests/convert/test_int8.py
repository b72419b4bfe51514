"""Graphs of the int8 engine against the classes of transformers, before they are rounded."""

import pytest
import test_bart
import test_gemma
import test_learned
import test_llama
import test_t5
from originals import (
    assert_same_causal_model,
    assert_same_translator,
    converted_model,
    randomised,
    small_tokenizer,
)
from test_int8_layouts import in_float32 as in_float32  # a fixture

from multistride.engines.int8.engine import quantise

CAUSAL = {
    "mistral": test_llama,
    "qwen2-sliding": test_llama,
    "phi3": test_llama,
    "gemma2": test_gemma,
    "gemma3": test_gemma,
    "gpt-neo": test_learned,
}


@pytest.mark.parametrize("kind", CAUSAL)
def test_a_converted_causal_model_is_the_original(kind, letters, tmp_path, in_float32):
    # Guards: windows, caps and norms that a graph leaves out or puts into another layer.
    module = CAUSAL[kind]
    directory, size = letters
    model, config, changes = module.KINDS[kind]
    theirs = randomised(model(config(vocab_size=size, **{**module.SIZES, **changes})))
    theirs.save_pretrained(directory)
    ours, _ = converted_model(directory, tmp_path / "ours")
    assert_same_causal_model(theirs, ours, size, quantise(ours, threads=1))


@pytest.mark.parametrize("kind", test_t5.KINDS)
def test_a_converted_t5_is_the_original(kind, tmp_path, in_float32):
    # Guards: numbers of another distance, head or direction; heads wider than the model.
    model, config, changes = test_t5.KINDS[kind]
    size = small_tokenizer(tmp_path / "theirs", "$A </s>", **test_t5.SPECIAL)
    theirs = randomised(model(config(vocab_size=size, **{**test_t5.SIZES, **changes})))
    theirs.save_pretrained(tmp_path / "theirs")
    ours, _ = converted_model(tmp_path / "theirs", tmp_path / "ours")
    assert_same_translator(theirs, ours, size, quantise(ours, threads=1))


def test_a_converted_m2m100_is_the_original(tmp_path, in_float32):
    # Guards: sinusoids of other rates.
    model, config, special, template = test_bart.KINDS["m2m100"]
    size = small_tokenizer(tmp_path / "theirs", template, **test_bart.SPECIAL)
    theirs = randomised(model(config(vocab_size=size, **test_bart.SIZES, **special)))
    theirs.generation_config.forced_eos_token_id = None
    theirs.save_pretrained(tmp_path / "theirs")
    ours, _ = converted_model(tmp_path / "theirs", tmp_path / "ours")
    assert_same_translator(theirs, ours, size, quantise(ours, threads=1))
