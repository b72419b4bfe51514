"""Whole texts, continuations and targets: three things, each with its own tokens."""

import copy
import json

import pytest
import torch
from originals import small_tokenizer
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

import multistride
from multistride.convert.run import convert
from multistride.data.foreign import ForeignVocabulary
from multistride.decode.options import DecodeOptions
from multistride.errors import DataError, UsageError

TEMPLATE = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
SIZES = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
}


def llama(place, template="<s> $A", ends=None, added=(), chat=None):
    """A small Llama with a tokenizer that begins with BOS, and what it was converted to."""
    size = small_tokenizer(place / "theirs", template, **TEMPLATE)
    if chat is not None:
        (place / "theirs" / "chat_template.jinja").write_text(chat)
    if added:
        path = place / "theirs" / "tokenizer.json"
        tokenizer = Tokenizer.from_file(str(path))
        tokenizer.add_tokens([AddedToken(piece, normalized=False) for piece in added])
        tokenizer.save(str(path))
        size += len(added)
    torch.manual_seed(4)
    config = LlamaConfig(
        vocab_size=size, max_position_embeddings=128, initializer_range=0.3, **SIZES
    )
    model = LlamaForCausalLM(config).eval()
    if ends is not None:
        model.generation_config.eos_token_id = ends
    model.save_pretrained(place / "theirs")
    convert(str(place / "theirs"), place / "ours")
    return model, multistride.load(place / "ours", engine="eager")


def test_a_score_is_that_of_prompt_and_text_in_one(tmp_path):
    # Guards: a BOS between prompt and text.
    theirs, model = llama(tmp_path)
    [found] = model.score([("a small", " dog")])
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "theirs")
    tokens = tokenizer("a small dog", return_tensors="pt")["input_ids"]
    prompt = len(tokenizer("a small")["input_ids"])
    with torch.inference_mode():
        values = theirs(tokens).logits.log_softmax(-1)[0, :-1].gather(1, tokens[0, 1:, None])
    assert found == pytest.approx(values[prompt - 1 :, 0].tolist(), abs=1e-4)
    assert len(found) == 4


def test_text_is_scored_by_the_tokens_that_were_written(tmp_path):
    # Guards: a score of other tokens than those that were written, which spell the same text.
    _, model = llama(tmp_path)
    [written] = model.generate(["a small"], max_tokens=12)
    [found] = model.score([("a small", written.tokens)])
    assert found == pytest.approx(list(written.scores[: len(written.tokens)]), abs=1e-4)


def test_the_first_token_of_an_empty_prompt_has_no_probability(tmp_path):
    # Guards: a list that is as long as the text, with the probability of a token that nothing read.
    _, model = llama(tmp_path, template="$A")
    assert model.score([("", "a dog"), ("a", " dog")]) == [
        pytest.approx(model.score([("a", " dog")])[0], abs=1e-5),
        pytest.approx(model.score([("a", " dog")])[0], abs=1e-5),
    ]
    assert model.score([("", "a")]) == [[]]


CHAT = "<s>{% for m in messages %}{{ m.role }} {{ m.content }} {% endfor %}"


def test_chats_share_what_the_model_knows_and_stream(tmp_path, monkeypatch):
    # Guards: a draft head and a table read again for every chat, plans forgotten, a stream that
    # cannot chat, a copy that no longer does.
    _, model = llama(tmp_path, chat=CHAT)
    ways = {"max_tokens": 9, "group_size": 3, "mode": "exact", "drafts": "text"}
    [first] = model.generate(["a dog"], chat=True, system="be brief", **ways)
    assert first.tokens != model.generate(["a dog"], **ways)[0].tokens
    monkeypatch.setattr(
        "multistride.text_model.Measured.read", lambda *_: pytest.fail("read again")
    )
    talking = model.chatting("be brief")
    assert talking.measured is model.measured
    assert talking.plan(**ways) is model.plan(**ways)
    parts = list(model.stream("a dog", chat=True, system="be brief", **ways))
    assert "".join(part.text for part in parts) == first.text
    assert "".join(part.text for part in talking.stream("a dog", **ways)) == first.text
    monkeypatch.undo()
    again = copy.deepcopy(talking)
    assert again.generate(["a dog"], **ways)[0].tokens == first.tokens
    for wrong, said in (
        ({"chat": "yes"}, "chat is 'yes': give True or False"),
        ({"system": "be brief"}, "system was given, which belongs to a conversation"),
        ({"chat": True, "system": 5}, "system is of type int: give a text"),
    ):
        for verb in (model.generate, model.stream):
            with pytest.raises(UsageError, match=said):
                verb(["a dog"] if verb == model.generate else "a dog", **wrong)
    with pytest.raises(UsageError, match="system is of type int"):
        model.chatting(5)
    with pytest.raises(UsageError, match="no source to translate: use generate"):
        model.translate(["a dog"])


def metaspace(**added):
    """A tokenizer that puts a blank before every text, as SentencePiece does."""
    pieces = ["<unk>", "<s>", "</s>", "<mask>", "▁", *"abcdog.1", "▁a", "▁dog", "dog", "do", "\n"]
    scores = [(piece, -float(place)) for place, piece in enumerate(pieces)]
    tokenizer = Tokenizer(models.Unigram(scores, unk_id=0))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always", split=True)
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="always")
    tokenizer.add_special_tokens(["<unk>", "<s>", "</s>", "<mask>"])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    roles = {"pad": 0, "bos": 1, "eos": 2, "mask": 3, "unknown": 0}
    return ForeignVocabulary(tokenizer, {"multistride": roles, "eos_token": "</s>"})


@pytest.mark.parametrize(("text", "pieces"), [("dog", ["dog"]), (" dog", ["▁dog"]), ("", [])])
def test_no_blank_is_put_before_a_continuation(text, pieces):
    # Guards: the blank that SentencePiece puts before a text, in the middle of a word.
    vocabulary = metaspace()
    [tokens] = vocabulary.encode_continuation([text])
    assert vocabulary.pieces(tokens) == pieces
    [whole] = vocabulary.encode_source(["dog"])
    assert vocabulary.pieces(whole) == ["<s>", "▁dog"]


@pytest.mark.parametrize("listed", [False, True])
def test_the_original_stops_where_its_generation_config_says(listed, tmp_path):
    # Guards: an integer that is dropped, and the tokenizer's own EOS that the original writes on.
    model, _ = llama(tmp_path / "free")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "free" / "theirs")
    prompts = ["a small dog runs", "two cats", "over the grass"]

    def written(ends):
        rows = []
        for prompt in prompts:
            tokens = tokenizer(prompt, return_tensors="pt", return_token_type_ids=False)
            settings = {"max_new_tokens": 24, "do_sample": False, "pad_token_id": 0}
            row = model.generate(**tokens, **settings, eos_token_id=ends)[0]
            rows.append(row[tokens["input_ids"].shape[1] :].tolist())
        return rows

    end = written([])[0][5]
    _, ours = llama(tmp_path / "ends", ends=[end] if listed else end)
    assert ours.config.ends == (end,)
    for each, expected in zip(ours.generate(prompts, max_tokens=24), written([end]), strict=True):
        assert [*each.tokens, *([end] if each.ending == "end" else [])] == expected


def test_added_tokens_that_are_not_special_are_text(tmp_path):
    # Guards: `<think>` that spells nothing: written though it is banned, and never a stop.
    _, model = llama(tmp_path, added=["<think>", "</think>"])
    vocabulary = model.vocabulary
    think = vocabulary.encode_source(["<think>"])[0][-1]
    assert vocabulary.pieces([think]) == ["<think>"]
    assert think not in vocabulary.special
    assert vocabulary.decode([think]) == "<think>"
    assert vocabulary.encode_source(["</s>"])[0][1:] != [vocabulary.eos]


def byte_level():
    pieces = {chr(letter): place for place, letter in enumerate(range(97, 123))}
    tokenizer = Tokenizer(models.BPE(vocab=pieces, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<end>"])
    tokenizer.add_tokens([AddedToken("<think>"), AddedToken("</denké>")])
    roles = dict.fromkeys(("pad", "bos", "eos", "mask", "unknown"), 26)
    return ForeignVocabulary(tokenizer, {"multistride": roles, "eos_token": "<end>"})


def test_rules_about_text_see_added_tokens():
    from multistride.decode.wording import banned_texts, stop_texts  # noqa: PLC0415

    vocabulary = byte_level()
    assert vocabulary.spellings[26:] == [b"", b"<think>", "</denké>".encode()]
    assert 27 in banned_texts(("<think>",), vocabulary)([])
    assert stop_texts(("</denké>",), vocabulary)([0, 1], [2, 28, 3]) == 2


def test_a_banned_token_may_not_be_an_end(tmp_path):
    _, model = llama(tmp_path)
    with pytest.raises(Exception, match="ends a sentence"):
        DecodeOptions.made(banned_tokens=(model.config.end_token,)).checked(model.config)


def coded(target=None):
    """A tokenizer of the kind of mBART-50: the code of the language, the text, EOS."""
    pieces = {"<s>": 0, "<pad>": 1, "</s>": 2, "<mask>": 3, "en_XX": 4, "ro_RO": 5, "a": 6, "b": 7}
    tokenizer = Tokenizer(models.BPE(vocab=pieces, merges=[]))
    tokenizer.add_special_tokens(["<s>", "<pad>", "</s>", "<mask>", "en_XX", "ro_RO"])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="en_XX $A </s>", special_tokens=[("en_XX", 4), ("</s>", 2)]
    )
    roles = {"pad": 1, "bos": 2, "eos": 2, "mask": 3, "unknown": 3}
    settings = {"multistride": roles, "eos_token": "</s>", "src_lang": "en_XX"}
    if target:
        settings["tgt_lang"] = target
    return ForeignVocabulary(tokenizer, settings)


def test_targets_begin_with_the_code_of_their_language():
    # Guards: prefixes and prepared targets that begin with the code of the source language.
    vocabulary = coded("ro_RO")
    assert vocabulary.encode_source(["ab"]) == [[4, 6, 7]]
    assert vocabulary.encode_target(["ab", ""]) == [[5, 6, 7], [5]]
    assert vocabulary.encode_continuation(["ab"]) == [[6, 7]]
    with pytest.raises(DataError, match=r"name it in tokenizer_config.json \(tgt_lang\)"):
        coded().encode_target(["ab"])


def test_a_padded_batch_of_another_program_pads_nothing_here(tmp_path):
    # Guards: padding and truncation, which tokenizer.json keeps from the last batch of anybody.
    _, model = llama(tmp_path)
    path = tmp_path / "ours" / "tokenizer.json"
    stored = json.loads(path.read_text())
    tokenizer = Tokenizer.from_str(json.dumps(stored))
    tokenizer.enable_padding(length=40)
    tokenizer.enable_truncation(3)
    tokenizer.save(str(path))
    texts = ["a small dog", "a"]
    again = multistride.load(tmp_path / "ours", engine="eager").vocabulary
    assert again.encode_source(texts) == model.vocabulary.encode_source(texts)
