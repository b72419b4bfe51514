"""GGUF files: the same model as the checkpoint they were made of."""

import gguf
import pytest
import torch
from originals import assert_same_causal_model, converted_model, randomised
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM

from multistride.convert import gguf as converting
from multistride.convert.gguf import read_gguf
from multistride.convert.run import converted
from multistride.errors import DataError

SIZES = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_hidden_layers": 2,
    "max_position_embeddings": 64,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "tie_word_embeddings": True,
}
SPECIAL = ["<unk>", "<s>", "</s>"]
LAYER = {
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def pieces_and_merges():
    letters = sorted(converting.pre_tokenizers.ByteLevel.alphabet())
    return [*SPECIAL, *letters, "ab", "Ġa", "Ġab"], ["a b", "Ġ a", "Ġ ab"]


def pairs(rows, heads):
    """Rows in the order of llama.cpp: the two coordinates of every rotation side by side."""
    return rows.unflatten(0, (heads, 2, -1)).transpose(1, 2).flatten(0, 2)


def written(
    path, model, architecture="llama", kind=gguf.GGMLQuantizationType.F32, cutting="smollm"
):
    """A file as llama.cpp's converter writes it."""
    file = gguf.GGUFWriter(path, architecture)
    config, (pieces, merges) = model.config, pieces_and_merges()
    file.add_context_length(config.max_position_embeddings)
    file.add_embedding_length(config.hidden_size)
    file.add_block_count(config.num_hidden_layers)
    file.add_feed_forward_length(config.intermediate_size)
    file.add_head_count(config.num_attention_heads)
    file.add_head_count_kv(config.num_key_value_heads)
    file.add_layer_norm_rms_eps(config.rms_norm_eps)
    file.add_rope_freq_base(500.0)
    file.add_tokenizer_model("gpt2")
    file.add_tokenizer_pre(cutting)
    file.add_token_list(pieces)
    file.add_token_types([3] * len(SPECIAL) + [1] * (len(pieces) - len(SPECIAL)))
    file.add_token_merges(merges)
    file.add_bos_token_id(1)
    file.add_eos_token_id(2)
    file.add_chat_template("{{ messages }}")
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    names = {"embed_tokens.weight": "token_embd.weight", "norm.weight": "output_norm.weight"}
    for name, tensor in model.model.named_parameters():
        parts = name.split(".")
        if parts[0] == "layers":
            ours = f"blk.{parts[1]}.{LAYER['.'.join(parts[2:-1])]}.{parts[-1]}"
            tensor = pairs(tensor, heads[parts[-2]]) if parts[-2] in heads else tensor
        else:
            ours = names[name]
        array = tensor.detach().numpy()
        packed = gguf.quants.quantize(
            array, kind if array.ndim == 2 else gguf.GGMLQuantizationType.F32
        )
        file.add_tensor(ours, packed, raw_dtype=kind if array.ndim == 2 else None)
    file.write_header_to_file()
    file.write_kv_data_to_file()
    file.write_tensors_to_file()
    file.close()
    return path


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
