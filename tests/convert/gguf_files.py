"""GGUF files as llama.cpp's converter writes them, of small random models."""

import gguf

from multistride.convert import gguf as converting

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
    path,
    model,
    architecture="llama",
    kind=gguf.GGMLQuantizationType.F32,
    cutting="smollm",
    divisors=None,
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
    if divisors is not None:
        file.add_tensor("rope_freqs.weight", divisors)
    file.write_header_to_file()
    file.write_kv_data_to_file()
    file.write_tensors_to_file()
    file.close()
    return path
