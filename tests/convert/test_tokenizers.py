"""Tokenizers come along: the same text has the same tokens as with the class of transformers."""

import json
import shutil
import warnings

import pytest
from marian_files import GERMAN, marian_files
from originals import small_tokenizer
from sentencepiece import sentencepiece_model_pb2
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoTokenizer, MarianTokenizer

from multistride.convert.checkpoint import Checkpoint
from multistride.convert.tokenizer import foreign_vocabulary
from multistride.data.foreign import ForeignVocabulary
from multistride.data.vocabulary_files import load_vocabulary, save_vocabulary
from multistride.decode.constraints import constraints_of
from multistride.decode.options import DecodeOptions
from multistride.distill.tally import Tally
from multistride.errors import DataError
from multistride.model.config import TransformerConfig
from multistride.parts import Part, PartHeader

TEXTS = [
    "the cat and the dogs",
    " two  dogs ",
    "Two dogs ran!",
    ">>deu<< a cat",
    "ﬁne",
    "☃ a dog",
    "saß",
    "",
]
CAUSAL = TransformerConfig(encoder_layers=0, start_symbol=False)


def checkpoint(directory, **changes):
    file = directory / "tokenizer.json"
    settings = json.loads((directory / "tokenizer_config.json").read_text())
    parts = {
        "name": "theirs",
        "config": {},
        "names": frozenset(),
        "read": None,
        "directory": directory,
    }
    text = file.read_text() if file.is_file() else None
    return Checkpoint(**{**parts, "tokenizer": text, "tokenizer_config": settings, **changes})


@pytest.fixture(scope="module")
def marian(tmp_path_factory):
    """A directory with the files of a Marian tokenizer: one SentencePiece model a language, one
    joint vocabulary."""
    return marian_files(tmp_path_factory.mktemp("marian"))


def marian_vocabulary(place):
    size = len(json.loads((place / "vocab.json").read_text()))
    config = {"model_type": "marian", "decoder_start_token_id": size - 1}
    vocabulary, _ = foreign_vocabulary(
        checkpoint(place, config=config), TransformerConfig(vocabulary_size=size)
    )
    return vocabulary, size


@pytest.mark.parametrize("text", TEXTS)
def test_marian_texts_have_the_tokens_they_had(marian, text):
    """Pieces of the other language, blanks, language tags and unknown characters, cut as
    SentencePiece cuts them."""
    vocabulary, _ = marian_vocabulary(marian)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it recommends a package for punctuation
        theirs = MarianTokenizer.from_pretrained(marian)
    expected = theirs(text)["input_ids"]
    assert [*vocabulary.encode([text])[0], vocabulary.eos] == expected


def test_marian_tokens_are_read_as_they_were(marian):
    vocabulary, size = marian_vocabulary(marian)
    assert (vocabulary.pad, vocabulary.bos, vocabulary.eos, vocabulary.mask) == (
        size - 1,
        size - 1,
        0,
        size,
    )
    tokens = vocabulary.encode(["the cat and a dog"])[0]
    assert vocabulary.decode([*tokens, vocabulary.eos]) == "the cat and a dog"


@pytest.mark.parametrize("text", [*GERMAN[:4], "the cat", "Wand"])
def test_marian_targets_are_cut_by_their_own_pieces(marian, text, tmp_path):
    """Targets cut by the pieces of the source language: a fine-tune that teaches to write
    letters."""
    save_vocabulary(marian_vocabulary(marian)[0], tmp_path)
    vocabulary = load_vocabulary(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = MarianTokenizer.from_pretrained(marian)
    expected = theirs(text_target=text)["input_ids"]
    assert [*vocabulary.encode_target([text])[0], vocabulary.eos] == expected
    if vocabulary.unknown not in expected:
        assert vocabulary.decode(expected) == text
        assert "".join(vocabulary.pieces(expected[:-1])).replace("▁", " ").strip() == text


def test_a_distilled_corpus_is_counted_in_the_tokens_of_its_language(marian):
    # Guards: German counted in pieces of English, many times as many.
    vocabulary, _ = marian_vocabulary(marian)
    source, written = "the cat and the dogs", GERMAN[0]
    tally = Tally(vocabulary)
    header = PartHeader(
        first=1, lines=1, source_sha256="", sha256="", empty={}, unfinished=0, seconds=1.0
    )
    tally.add(Part(header, [written.encode()]), [source.encode()], [GERMAN[1].encode()])
    [read], [target, other] = (
        vocabulary.encode_source([source]),
        vocabulary.encode_target([written, GERMAN[1]]),
    )
    facts = tally.facts(compared=True)
    assert facts["length_ratio_to_source"] == len(target) / len(read)
    assert facts["length_ratio_to_target"] == len(target) / len(other)


def test_a_prefix_of_a_marian_model_is_cut_as_its_targets(marian):
    # Guards: a prefix spelled letter by letter, by the pieces of the source language.
    vocabulary, size = marian_vocabulary(marian)
    config = TransformerConfig(vocabulary_size=size + 1, max_positions=64)
    text = "die Katze"
    constraints = constraints_of(DecodeOptions(prefix=text), config, vocabulary)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = MarianTokenizer.from_pretrained(marian)
    assert [*constraints.prefix, vocabulary.eos] == theirs(text_target=text)["input_ids"]


def test_a_chat_template_is_kept_and_its_special_tokens_are_read(tmp_path):
    """A template whose marks are cut into letters; a person's text that can spell them."""
    small_tokenizer(tmp_path, bos_token="<s>", eos_token="</s>")
    source = checkpoint(tmp_path)
    source.tokenizer_config["chat_template"] = "<s>{{ messages }}"
    save_vocabulary(foreign_vocabulary(source, CAUSAL)[0], tmp_path / "ours")
    vocabulary = load_vocabulary(tmp_path / "ours")
    assert isinstance(vocabulary, ForeignVocabulary)
    assert vocabulary.chat_template == "<s>{{ messages }}"
    assert vocabulary.encode_rendered(["<s>ab"])[0][0] == vocabulary.bos
    assert vocabulary.bos not in vocabulary.encode(["<s>ab"])[0]
    assert vocabulary.pieces(vocabulary.encode_rendered(["<s>ab"])[0]) == ["<s>", "a", "b"]


def test_what_stands_before_every_text_is_kept(tmp_path):
    small_tokenizer(tmp_path, "<s> $A </s>", bos_token="<s>", eos_token="</s>")
    vocabulary, _ = foreign_vocabulary(checkpoint(tmp_path), CAUSAL)
    assert vocabulary.encode(["a"])[0] == [vocabulary.bos, *vocabulary.encode_rendered(["a"])[0]]


@pytest.mark.parametrize("blank", [True, False])
def test_a_blank_before_every_text_is_as_transformers_has_it(blank, tmp_path):
    # Guards: the setting of tokenizer_config.json, which transformers prefers to tokenizer.json's.
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    pieces = {piece: token for token, piece in enumerate(["<s>", "</s>", *letters])}
    tokenizer = Tokenizer(models.BPE(pieces, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=not blank)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    settings = {"bos_token": "<s>", "eos_token": "</s>", "add_prefix_space": blank}
    settings |= {"tokenizer_class": "GPT2Tokenizer", "unk_token": "</s>"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    vocabulary, _ = foreign_vocabulary(checkpoint(tmp_path), CAUSAL)
    (tmp_path / "vocab.json").write_text(json.dumps(pieces))
    (tmp_path / "merges.txt").write_text("#version: 0.2\n")
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    assert vocabulary.encode(["a b"])[0] == theirs("a b", add_special_tokens=False)["input_ids"]
    save_vocabulary(vocabulary, tmp_path / "ours")
    assert load_vocabulary(tmp_path / "ours").encode(["a b"]) == vocabulary.encode(["a b"])


def test_where_there_is_no_padding_symbol_eos_stands_in(tmp_path):
    """Nobody reads padding, so a model without one can be converted."""
    small_tokenizer(tmp_path, bos_token="<s>", eos_token="</s>")
    vocabulary, _ = foreign_vocabulary(checkpoint(tmp_path), CAUSAL)
    assert vocabulary.pad == vocabulary.eos


def test_transformers_reads_what_is_written(tmp_path):
    small_tokenizer(tmp_path, "<s> $A", bos_token="<s>", eos_token="</s>")
    vocabulary, _ = foreign_vocabulary(checkpoint(tmp_path), CAUSAL)
    save_vocabulary(vocabulary, tmp_path / "ours")
    theirs = AutoTokenizer.from_pretrained(tmp_path / "ours")
    assert theirs("a cat")["input_ids"] == vocabulary.encode(["a cat"])[0]
    assert (theirs.eos_token_id, theirs.pad_token_id, theirs.mask_token_id) == (
        vocabulary.eos,
        vocabulary.pad,
        vocabulary.mask,
    )


@pytest.mark.parametrize(
    ("template", "special", "message"),
    [
        ("$A", {"bos_token": "<s>"}, "has no end-of-sentence token"),
        (
            "$A </s> <s>",
            {"bos_token": "<s>", "eos_token": "</s>"},
            "writes tokens after the end of sentence",
        ),
    ],
)
def test_tokenizers_that_do_not_fit_are_refused(template, special, message, tmp_path):
    small_tokenizer(tmp_path, template, **special)
    with pytest.raises(DataError, match=message):
        foreign_vocabulary(checkpoint(tmp_path), CAUSAL)


def test_without_tokenizer_the_way_to_one_is_said(tmp_path):
    small_tokenizer(tmp_path, eos_token="</s>")
    with pytest.raises(DataError, match=r"no tokenizer.json: load its tokenizer in transformers"):
        foreign_vocabulary(checkpoint(tmp_path, tokenizer=None), CAUSAL)


def test_a_damaged_table_of_characters_is_refused_in_one_line(marian, tmp_path):
    """The Rust library raises a plain `Exception` for it."""
    place = shutil.copytree(marian, tmp_path / "damaged")
    model = sentencepiece_model_pb2.ModelProto.FromString((place / "source.spm").read_bytes())
    model.normalizer_spec.precompiled_charsmap = b"\xff\xff\xff\xff"
    (place / "source.spm").write_bytes(model.SerializeToString())
    with pytest.raises(DataError, match=r"no tokenizer that can be read .*charsmap") as refused:
        marian_vocabulary(place)
    assert "\n" not in str(refused.value)
