"""Models with several tokens that end a text, as Llama 3 and Qwen have them."""

import json

import pytest
import torch
from originals import small_tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

import multistride
import multistride.hf
from multistride.convert.run import convert
from multistride.decode.options import DecodeOptions
from multistride.distill.config import DistillConfig
from multistride.distill.continuing import continuer
from multistride.errors import UsageError

PROMPTS = ["a small dog runs", "two cats", "Katze laufen", "over the grass"]


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """A Llama that ends texts with one of three tokens, two of which it writes soon, and what it
    was converted to."""
    place = tmp_path_factory.mktemp("ends")
    size = small_tokenizer(
        place / "theirs", unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    )
    torch.manual_seed(4)
    sizes = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_attention_heads": 4,
        "num_hidden_layers": 2,
    }
    model = LlamaForCausalLM(
        LlamaConfig(vocab_size=size, max_position_embeddings=128, initializer_range=0.3, **sizes)
    ).eval()
    tokenizer = AutoTokenizer.from_pretrained(place / "theirs")
    longest = [written(model, tokenizer, prompt, None) for prompt in PROMPTS]
    ends = [tokenizer.eos_token_id, longest[0][5], longest[1][9]]
    model.generation_config.eos_token_id = ends
    model.save_pretrained(place / "theirs")
    assert convert(str(place / "theirs"), place / "ours").lost == ()
    return model, tokenizer, place / "ours", ends


def written(model, tokenizer, prompt, ends):
    inputs = tokenizer(prompt, return_tensors="pt", return_token_type_ids=False)
    settings = {"max_new_tokens": 24, "do_sample": False, "pad_token_id": 0, "eos_token_id": ends}
    return model.generate(**inputs, **settings)[0, inputs["input_ids"].shape[1] :].tolist()


@pytest.mark.parametrize(
    "choices",
    [{}, {"group_size": 3, "mode": "exact", "drafts": "text"}, {"beam": 2}, {"batch_size": 1}],
    ids=["greedy", "exact", "beam", "alone"],
)
def test_every_end_ends_a_text(both, choices):
    # Guards: an end token that is written on, at the end or inside a group of accepted drafts, or
    # counted as text.
    theirs, tokenizer, directory, ends = both
    model = multistride.load(directory, engine="eager")
    assert model.config.ends == tuple(ends)
    found = model.generate(PROMPTS, max_tokens=24, **choices)
    assert all(not set(each.tokens) & set(ends) for each in found)
    assert "end" in {each.ending for each in found}
    if "beam" in choices:
        return
    for prompt, each in zip(PROMPTS, found, strict=True):
        expected = written(theirs, tokenizer, prompt, ends)
        assert list(each.tokens) == (expected[:-1] if expected[-1] in ends else expected)
        assert each.ending == ("end" if expected[-1] in ends else "limit")


def test_none_of_them_is_written_before_the_least_length(both):
    _, _, directory, ends = both
    model = multistride.load(directory, engine="eager")
    found = model.generate(PROMPTS, max_tokens=24, min_tokens=20)
    assert all(len(each.tokens) >= 20 for each in found)
    with pytest.raises(UsageError, match=f"token {ends[2]} ends a sentence and cannot be banned"):
        DecodeOptions.made(banned_tokens=(ends[2],)).checked(model.config)


def test_distilled_text_has_the_end_that_was_written(both, tmp_path):
    # Guards: EOS in the training text where the model writes another end.
    theirs, tokenizer, directory, ends = both
    config = DistillConfig(
        model=directory, source=tmp_path / "prompts", output=tmp_path / "out", max_tokens=24
    )
    lines = continuer(config, "cpu").translate([prompt.encode() for prompt in PROMPTS]).texts
    assert [json.loads(line)["written"] for line in lines] == [
        written(theirs, tokenizer, prompt, ends) for prompt in PROMPTS
    ]


def test_transformers_hears_of_all_of_them(both, tmp_path):
    # Guards: a list that becomes a number on the way through transformers.
    theirs, tokenizer, directory, ends = both
    assert json.loads((directory / "generation_config.json").read_text())["eos_token_id"] == ends
    ours = AutoModelForCausalLM.from_pretrained(directory)
    for prompt in PROMPTS:
        expected = written(theirs, tokenizer, prompt, ends)
        assert written(ours, tokenizer, prompt, ends) == expected
    ours.save_pretrained(tmp_path / "again")
    assert multistride.load(tmp_path / "again", engine="eager").config.ends == tuple(ends)
