"""BART, mBART and Marian against the classes of transformers."""

import json

import pytest
from originals import (
    assert_same_translator,
    before,
    converted_model,
    padded,
    randomised,
    small_tokenizer,
)
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    BartConfig,
    BartForConditionalGeneration,
    M2M100Config,
    M2M100ForConditionalGeneration,
    MarianConfig,
    MarianMTModel,
    MBartConfig,
    MBartForConditionalGeneration,
)
from typer.testing import CliRunner

import multistride
import multistride.hf
from multistride.cli import app
from multistride.convert.run import convert
from multistride.convert.tokenizer import Languages
from multistride.data.detokenize import as_it_is, until
from multistride.errors import DataError, UsageError
from multistride.evaluate.inspection import inspect_model

SIZES = {
    "d_model": 32,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_layers": 2,
    "decoder_layers": 1,
    "max_position_embeddings": 64,
    "forced_eos_token_id": None,
}
TEXTS = ["a cat sat.", "dogs"]
SPECIAL = {"bos_token": "<s>", "pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
BART = {"bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 2}
MARIAN = {
    "pad_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 1,
    "scale_embedding": True,
}
KINDS = {
    "bart": (BartForConditionalGeneration, BartConfig, BART, "<s> $A </s>"),
    "mbart": (
        MBartForConditionalGeneration,
        MBartConfig,
        {**BART, "scale_embedding": True},
        "$A </s>",
    ),
    "m2m100": (
        M2M100ForConditionalGeneration,
        M2M100Config,
        {**BART, "scale_embedding": True},
        "<s> $A </s>",
    ),
    "marian": (MarianMTModel, MarianConfig, {**MARIAN, "activation_function": "swish"}, "$A </s>"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_converted_model_is_the_original(kind, tmp_path):
    """Tables that begin two rows late, a norm on the wrong side, a bias forgotten, EOS that is
    never written."""
    model, config, special, template = KINDS[kind]
    size = small_tokenizer(tmp_path / "theirs", template, **SPECIAL)
    theirs = randomised(model(config(vocab_size=size, **SIZES, **special)))
    if kind != "m2m100":
        theirs.final_logits_bias.normal_()
    theirs.generation_config.forced_eos_token_id = None
    theirs.save_pretrained(tmp_path / "theirs")
    ours, vocabulary = converted_model(tmp_path / "theirs", tmp_path / "ours")
    assert_same_translator(theirs, ours, size)
    assert vocabulary.decode(vocabulary.encode(["a b"])[0]) == "a b"


@pytest.mark.parametrize("kind", KINDS)
def test_untied_embeddings_are_those_of_their_side(kind, tmp_path):
    """One table for both sides where the original has two: exit 0, and logits that are off by 8."""
    model, config, special, template = KINDS[kind]
    size = small_tokenizer(tmp_path / "theirs", template, **SPECIAL)
    untied = {**SIZES, **special, "tie_word_embeddings": False}
    theirs = randomised(model(config(vocab_size=size, **untied)))
    theirs.generation_config.forced_eos_token_id = None
    theirs.save_pretrained(tmp_path / "theirs")
    ours, _ = converted_model(tmp_path / "theirs", tmp_path / "ours")
    assert not ours.config.tie_embeddings
    assert_same_translator(theirs, ours, size)


def test_copies_of_the_embedding_that_differ_are_refused(tmp_path):
    size = small_tokenizer(tmp_path / "theirs", "$A </s>", **SPECIAL)
    theirs = BartForConditionalGeneration(BartConfig(vocab_size=size, **SIZES, **BART))
    theirs.save_pretrained(tmp_path / "theirs")
    file = tmp_path / "theirs" / "model.safetensors"
    other = theirs.model.shared.weight.detach() + 1
    save_file({**load_file(file), "model.encoder.embed_tokens.weight": other}, file)
    with pytest.raises(DataError, match=r"embed_tokens.weight is not equal to model.shared"):
        converted_model(tmp_path / "theirs", tmp_path / "ours")


def test_a_converted_translator_translates(tmp_path):
    """Texts in, texts out: the beginning and end of sources and the special tokens of a foreign
    tokenizer."""
    size = small_tokenizer(tmp_path / "theirs", "<s> $A </s>", **SPECIAL)
    theirs = randomised(BartForConditionalGeneration(BartConfig(vocab_size=size, **SIZES, **BART)))
    theirs.generation_config.forced_eos_token_id = None
    theirs.save_pretrained(tmp_path / "theirs")
    converted_model(tmp_path / "theirs", tmp_path / "ours")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "theirs")
    texts = ["a cat sat.", "dogs"]
    inputs = tokenizer(texts, return_tensors="pt", padding=True, return_token_type_ids=False)
    written = theirs.generate(**inputs, max_new_tokens=20, do_sample=False, num_beams=1)
    expected = [text.strip() for text in tokenizer.batch_decode(written, skip_special_tokens=True)]
    found = multistride.load(tmp_path / "ours", engine="eager").translate(
        texts, limit_ratio=0.01, limit_extra=20
    )
    assert [each.text.strip() for each in found] == expected
    assert any(expected)
    started_from = inspect_model(tmp_path / "ours")["started_from"]
    assert started_from == f"{tmp_path / 'theirs'} (bart)"


@pytest.mark.parametrize("kind", KINDS)
def test_stop_texts_and_banned_texts_are_followed(kind, tmp_path):
    # Guards: rules about text that were refused for every tokenizer of SentencePiece.
    model, config, special, template = KINDS[kind]
    size = small_tokenizer(tmp_path / "theirs", template, **SPECIAL)
    theirs = randomised(model(config(vocab_size=size, **SIZES, **special)))
    theirs.save_pretrained(tmp_path / "theirs")
    convert(str(tmp_path / "theirs"), tmp_path / "ours")
    ours = multistride.load(tmp_path / "ours", engine="eager")
    ours.shape = staticmethod(as_it_is)
    varied = {"max_tokens": 24, "min_tokens": 12, "no_repeat_ngram": 2}
    free = [each.text for each in ours.translate(TEXTS, **varied)]
    stops = [free[0][2:4], free[1][5:7], free[0][:1]]
    exact = {"group_size": 4, "mode": "exact", "drafts": "text", **varied}
    for choices in (varied, exact):
        for stop in stops:
            found = ours.translate(TEXTS, stop=[stop], **choices)
            assert [each.text for each in found] == [until(text, [stop]) for text in free]
            assert [each.ending == "stop" for each in found] == [stop in text for text in free]
            banned = ours.translate(TEXTS, banned=[stop], **choices)
            for each, text in zip(banned, free, strict=True):
                assert stop not in each.text
                assert stop in text or each.text == text
    parts = [each.text for each in ours.stream(TEXTS[0], stop=stops[:1], **varied)]
    assert "".join(parts) == until(free[0], stops[:1])


def test_a_mask_that_was_there_is_kept(tmp_path):
    """BART has a mask, and its vector is trained."""
    size = small_tokenizer(tmp_path / "theirs", "$A </s>", **SPECIAL, mask_token="<mask>")
    theirs = randomised(BartForConditionalGeneration(BartConfig(vocab_size=size, **SIZES, **BART)))
    theirs.save_pretrained(tmp_path / "theirs")
    ours, vocabulary = converted_model(tmp_path / "theirs", tmp_path / "ours")
    assert len(vocabulary) == size
    assert ours.target_embedding.weight.equal(theirs.model.shared.weight)


def test_stored_sinusoids_that_are_none_are_refused(tmp_path):
    """A table that is not the one computed here would be left out silently."""
    size = small_tokenizer(tmp_path / "theirs", "$A </s>", **SPECIAL)
    theirs = MarianMTModel(MarianConfig(vocab_size=size, **SIZES, **MARIAN))
    theirs.save_pretrained(tmp_path / "theirs")
    file = tmp_path / "theirs" / "model.safetensors"
    table = theirs.model.encoder.embed_positions.weight.detach() + 0.1
    save_file({**load_file(file), "model.encoder.embed_positions.weight": table}, file)
    with pytest.raises(DataError, match="sinusoids other than"):
        converted_model(tmp_path / "theirs", tmp_path / "ours")


def test_a_bias_of_zeros_is_left_out(tmp_path):
    size = small_tokenizer(tmp_path / "theirs", "$A </s>", **SPECIAL)
    theirs = BartForConditionalGeneration(BartConfig(vocab_size=size, **SIZES, **BART))
    theirs.save_pretrained(tmp_path / "theirs")
    ours, vocabulary = converted_model(tmp_path / "theirs", tmp_path / "ours")
    assert not ours.config.output_bias
    assert (vocabulary.bos, vocabulary.eos) == (2, 2)
    assert ours.config.unpicked == (size,)


CODES = {"english": "eng_Latn", "french": "fra_Latn", "german": "deu_Latn"}


def many_languages(place, template="eng_Latn $A </s>", named="eng_Latn"):
    """A small M2M100 with a tokenizer of the kind of NLLB: the code of the source, text, EOS."""
    size = small_tokenizer(place, template, **SPECIAL, **CODES)
    path = place / "tokenizer_config.json"
    settings = {**json.loads(path.read_text()), "src_lang": named}
    for name in CODES:
        del settings[name]
    path.write_text(json.dumps({**settings, "additional_special_tokens": list(CODES.values())}))
    config = M2M100Config(vocab_size=size, **SIZES, **BART, scale_embedding=True)
    theirs = randomised(M2M100ForConditionalGeneration(config))
    theirs.generation_config.forced_eos_token_id = None
    theirs.save_pretrained(place)
    return theirs


def test_the_language_to_write_is_named_when_converting(tmp_path):
    """A model of 200 languages that writes whichever it likes; sources that begin with the code of
    another language."""
    theirs = many_languages(tmp_path / "theirs")
    arguments = ["convert", str(tmp_path / "theirs"), str(tmp_path / "ours")]
    languages = ["--source-language", "deu_Latn", "--target-language", "fra_Latn"]
    result = CliRunner().invoke(app, [*arguments, *languages])
    assert result.exit_code == 0, result.output
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "theirs")
    german, french = tokenizer.convert_tokens_to_ids(["deu_Latn", "fra_Latn"])
    rows = [[german, *tokenizer(text, add_special_tokens=False)["input_ids"], 2] for text in TEXTS]
    source, _, real = padded(rows, 1)
    settings = {"max_new_tokens": 20, "do_sample": False, "num_beams": 1}
    inputs = {"input_ids": source, "attention_mask": real.long()}
    expected = theirs.generate(**inputs, forced_bos_token_id=french, **settings)[:, 1:].tolist()
    model = multistride.load(tmp_path / "ours", engine="eager")
    limits = {"max_tokens": 20}
    found = model.translate(TEXTS, **limits)
    assert [list(each.tokens) for each in found] == [before(row, 2) for row in expected]
    assert all(each.tokens[0] == french for each in found)
    ours = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "ours")
    assert ours.generate(**inputs, **settings)[:, 1:].tolist() == expected
    again = ours.generate(**inputs, custom_generate=None, **settings)[:, 1:].tolist()
    assert again == expected
    exact = {"group_size": 4, "mode": "exact", "drafts": "text"}
    assert ours.generate(**inputs, **exact, **settings)[:, 1:].tolist() == expected
    [prefixed] = model.translate(TEXTS[:1], prefix="a", **limits)
    assert prefixed.tokens[:2] == (french, tokenizer.convert_tokens_to_ids("a"))
    searched = model.translate(TEXTS, group_size=1, beam=2, **limits)
    assert all(each.tokens[0] == french for each in searched)


def test_languages_that_are_not_there_are_refused(tmp_path):
    many_languages(tmp_path / "theirs")
    with pytest.raises(UsageError, match=r"has no language klingon.*\(eng_Latn, fra_Latn, "):
        convert(str(tmp_path / "theirs"), tmp_path / "ours", False, Languages(None, "klingon"))
    assert not (tmp_path / "ours").exists()


@pytest.mark.parametrize("source", [None, "deu_Latn"])
def test_older_files_of_nllb_are_read_as_transformers_reads_them(source, tmp_path):
    """The code of the language behind EOS, and its name left out: sources that would be refused,
    targets in the language of the source."""
    many_languages(tmp_path / "theirs", "$A </s> eng_Latn", named=None)
    languages = Languages(source, "fra_Latn")
    vocabulary = convert(str(tmp_path / "theirs"), tmp_path / "ours", False, languages).vocabulary
    [read], [written] = vocabulary.encode_source(["a b"]), vocabulary.encode_target(["a b"])
    assert vocabulary.pieces(read[:1]) == [source or "eng_Latn"]
    assert vocabulary.pieces(written[:1]) == ["fra_Latn"]
    assert read[1:] == written[1:]
