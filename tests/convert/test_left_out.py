"""What config.json leaves out, or says where the original does not look, is read as the original
reads it."""

import json

import pytest
import torch
from originals import (
    LLAMA3,
    causal_slots,
    compare_causal,
    converted_model,
    randomised,
    sequences,
    small_tokenizer,
)
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PhiConfig,
    PhiForCausalLM,
)
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from multistride.convert.checkpoint import Checkpoint
from multistride.convert.run import LAYOUTS, convert
from multistride.errors import DataError

SIZES = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "max_position_embeddings": 64,
}
GEMMA = {**SIZES, "num_key_value_heads": 2, "head_dim": 8}
CASES = {
    "rotary_pct of GPT-NeoX": (
        GPTNeoXForCausalLM,
        GPTNeoXConfig(**SIZES),
        ("rotary_pct", "rope_parameters", "partial_rotary_factor"),
        {},
    ),
    "partial_rotary_factor of Phi": (
        PhiForCausalLM,
        PhiConfig(**SIZES),
        ("rope_parameters", "partial_rotary_factor"),
        {},
    ),
    "query_pre_attn_scalar of Gemma 2": (
        Gemma2ForCausalLM,
        Gemma2Config(**GEMMA),
        ("query_pre_attn_scalar",),
        {},
    ),
    "query_pre_attn_scalar of Gemma 3": (
        Gemma3ForCausalLM,
        Gemma3TextConfig(**GEMMA),
        ("query_pre_attn_scalar",),
        {},
    ),
    "gelu of Gemma 2": (
        Gemma2ForCausalLM,
        Gemma2Config(**GEMMA),
        (),
        {"hidden_activation": "gelu"},
    ),
    "a window in a Llama": (LlamaForCausalLM, LlamaConfig(**SIZES), (), {"sliding_window": 3}),
    "a context outside rope_parameters": (
        LlamaForCausalLM,
        LlamaConfig(**SIZES, rope_parameters=LLAMA3),
        (),
        {"original_max_position_embeddings": 16},
    ),
    "the base of a scaled Gemma 3": (
        Gemma3ForCausalLM,
        Gemma3TextConfig(**GEMMA),
        ("rope_parameters",),
        {"rope_scaling": {"rope_type": "linear", "factor": 8.0}},
    ),
    "heads of Phi": (PhiForCausalLM, PhiConfig(**SIZES, head_dim=16), (), {}),
}


@pytest.mark.parametrize("case", CASES)
def test_the_original_and_the_converted_model_agree(tmp_path, case):
    # Guards: another model than transformers makes of the same files, without a word.
    kind, config, removed, added = CASES[case]
    place = tmp_path / "theirs"
    config.vocab_size = size = small_tokenizer(place, bos_token="<s>", eos_token="</s>")
    config.bos_token_id, config.eos_token_id, config.pad_token_id = 0, 1, None
    randomised(kind(config)).save_pretrained(place)
    path = place / "config.json"
    said = {**json.loads(path.read_text()), **added}
    path.write_text(json.dumps({key: said[key] for key in said if key not in removed}))
    theirs = AutoModelForCausalLM.from_pretrained(place, attn_implementation="eager").eval()
    ours, _ = converted_model(place, tmp_path / "ours")
    if "window" in case:  # its cache of transformers has one, which its attention has not
        tokens = torch.randint(3, size, (1, 12), generator=torch.Generator().manual_seed(1))
        slots, _ = causal_slots(tokens.tolist())
        with torch.inference_mode():
            expected = theirs(tokens, use_cache=False).logits
            found = ours.project(ours(None, None, slots))[..., :size]
        assert (found - expected).abs().max() < 2e-4
        return
    found = compare_causal(theirs, ours, size, sequences(size))
    assert found.largest_difference < 2e-4
    assert all(found.alike)


def configured(kind, settings):
    """The configuration of a checkpoint of which only config.json is there; None if refused."""
    said = {**settings, "model_type": kind}
    checkpoint = Checkpoint(kind, said, frozenset(), lambda name: torch.ones(1), None, {})
    try:
        config = LAYOUTS[kind].configure(checkpoint)
    except (DataError, KeyError, TypeError):
        return None
    whole = {"key_value_heads": config.key_value_count, "head_size": config.head_width}
    return {**config.model_dump(), **whole}


@pytest.mark.parametrize("kind", LAYOUTS)
def test_a_setting_that_is_left_out_has_the_default_of_transformers(kind):
    # Guards: an mT5 with ReLU, an M2M100 without scaled embeddings, a Gemma with another GELU.
    original = CONFIG_MAPPING[kind]
    told = original().to_dict()
    for name in told:
        settings = {key: value for key, value in told.items() if key != name}
        found = configured(kind, settings)
        if found is not None:
            assert found == configured(kind, original.from_dict(settings).to_dict()), name


def test_a_gemma_3_without_windows(tmp_path):
    # Guards: a sum with None, and the advice to download the files again.
    place = tmp_path / "theirs"
    size = small_tokenizer(place, bos_token="<s>", eos_token="</s>")
    config = Gemma3TextConfig(**GEMMA, vocab_size=size, layer_types=["full_attention"] * 2)
    Gemma3ForCausalLM(config).save_pretrained(place)
    path = place / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "sliding_window": None}))
    assert convert(str(place), tmp_path / "ours").model.config.attention_window is None


@pytest.fixture
def llama(tmp_path):
    place = tmp_path / "theirs"
    size = small_tokenizer(place, bos_token="<s>", eos_token="</s>")
    config = LlamaConfig(vocab_size=size, bos_token_id=0, eos_token_id=1, **SIZES)
    LlamaForCausalLM(config).save_pretrained(place)
    return place


def generating(place, **settings):
    path = place / "generation_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **settings}))


def test_only_tokens_that_can_be_written_are_forbidden(llama, tmp_path):
    # Guards: an index out of range while decoding; a model that never ends.
    generating(llama, bad_words_ids=[[1], [7], [500], [-2]], suppress_tokens=[9, 600, -1])
    model = convert(str(llama), tmp_path / "ours").model
    never = set(model.config.never_written) - {model.config.mask_token}
    assert never == {7, 9}


def test_settings_that_are_not_kept_are_named(llama, tmp_path):
    # Guards: another text than the original's, without a word.
    generating(
        llama,
        bad_words_ids=[[7, 8]],
        min_new_tokens=3,
        min_length=2,
        sequence_bias=[[[7], -2.0]],
        do_sample=True,
        temperature=0.7,
        forced_eos_token_id=2,
    )
    lost = " | ".join(convert(str(llama), tmp_path / "ours").lost)
    for part in (
        *("bad_words_ids of several tokens", "min_new_tokens 3", "min_length 2", "sequence_bias"),
        "do_sample with temperature 0.7",
        "the last token 2 is not forced (forced_eos_token_id)",
    ):
        assert part in lost


def test_a_single_file_goes_before_an_old_index(llama, tmp_path):
    # Guards: weights of an earlier version, which transformers does not read.
    tensors = load_file(llama / "model.safetensors")
    save_file({name: tensor + 1 for name, tensor in tensors.items()}, llama / "old.safetensors")
    index = {"weight_map": dict.fromkeys(tensors, "old.safetensors")}
    (llama / "model.safetensors.index.json").write_text(json.dumps(index))
    found = convert(str(llama), tmp_path / "ours").model.state_dict()["decoder_norm.weight"]
    assert found.equal(tensors["model.norm.weight"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vocab_size": 1000}, "rows, and vocab_size is 1000: use the files of one model"),
        ({"partial_rotary_factor": 0.5}, "rotations of 4 of 8 coordinates"),
        ({"quantization_config": "gptq"}, "has quantised weights (an unknown method)"),
        ({"auto_map": "modeling.My"}, "brings its own program code"),
        (
            {"rope_parameters": {**LLAMA3, "rope_type": "longrope", "short_factor": [1.0] * 3}},
            "do not fit each other, or hold a value of the wrong kind",
        ),
    ],
)
def test_what_does_not_fit_is_one_line(llama, tmp_path, changes, message):
    # Guards: a traceback; rows that are made up.
    path = llama / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    with pytest.raises(DataError) as error:
        convert(str(llama), tmp_path / "ours")
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "ours").exists()
