"""GGUF files: the same model as the checkpoint they were made of."""

import gguf
import pytest
import torch
from gguf_files import SIZES, pieces_and_merges, written
from originals import assert_same_causal_model, converted_model, randomised
from test_llama import LLAMA3
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM

from multistride.convert import gguf as converting
from multistride.convert.gguf import read_gguf
from multistride.convert.run import converted
from multistride.errors import DataError


@pytest.fixture
def theirs():
    size = len(pieces_and_merges()[0])
    return randomised(LlamaForCausalLM(LlamaConfig(vocab_size=size, rope_theta=500.0, **SIZES)))


def test_a_file_is_the_model_it_was_made_of(theirs, tmp_path):
    """Rows of queries and keys in the other order of rotations, a base or a name that is read
    wrongly."""
    path = written(tmp_path / "model.gguf", theirs)
    ours, vocabulary = converted_model(path, tmp_path / "ours")
    assert_same_causal_model(theirs, ours, theirs.config.vocab_size)
    assert vocabulary.chat_template == "{{ messages }}"
    assert vocabulary.eos == 2


def test_the_scaling_of_llama_3_is_read(tmp_path):
    """Llama 3.1 and 3.2: divisors of frequencies in a tensor, in place of numbers in the head."""
    size = len(pieces_and_merges()[0])
    plain = LlamaConfig(vocab_size=size, rope_theta=500.0, **SIZES)
    scaled = LlamaConfig(vocab_size=size, rope_parameters=LLAMA3, **SIZES)
    theirs = randomised(LlamaForCausalLM(scaled))
    fast = LlamaForCausalLM(plain).model.rotary_emb.inv_freq
    divisors = (fast / theirs.model.rotary_emb.inv_freq).numpy()
    path = written(tmp_path / "model.gguf", theirs, divisors=divisors)
    ours, _ = converted_model(path, tmp_path / "ours")
    assert max(divisors) > 1
    assert_same_causal_model(theirs, ours, size)


def test_quantised_tensors_are_made_float_again(theirs, tmp_path):
    path = written(tmp_path / "model.gguf", theirs, kind=gguf.GGMLQuantizationType.Q8_0)
    model = converted(read_gguf(path)).model
    expected = theirs.model.embed_tokens.weight
    found = model.target_embedding.weight[: len(expected)]
    assert found.dtype == torch.float32
    assert 0 < (found - expected).abs().max() < 0.02


@pytest.mark.parametrize("cutting", converting.CUTTING)
def test_texts_are_cut_and_joined(cutting, theirs, tmp_path):
    path = written(tmp_path / "model.gguf", theirs, cutting=cutting)
    vocabulary = converted(read_gguf(path)).vocabulary
    text = "ab abc 1234, it's\n\n  naïve 日本"
    assert vocabulary.decode(vocabulary.encode([text])[0]) == text
    plain = Tokenizer(
        models.BPE(
            {piece: token for token, piece in enumerate(pieces_and_merges()[0])}, [("a", "b")]
        )
    )
    plain.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    plain.decoder = decoders.ByteLevel()
    assert vocabulary.encode(["ab"])[0] == plain.encode("ab").ids


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"architecture": "gemma"},
            "of the architecture gemma; GGUF files are converted for llama, qwen2, qwen3",
        ),
        ({"cutting": "tekken"}, "cuts words as tekken does"),
    ],
)
def test_other_files_are_refused(changes, message, theirs, tmp_path):
    path = written(tmp_path / "model.gguf", theirs, **changes)
    with pytest.raises(DataError, match=message):
        converted(read_gguf(path))
