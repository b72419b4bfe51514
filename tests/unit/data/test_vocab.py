import json
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models

from multistride.data.foreign import ForeignVocabulary
from multistride.data.vocab import SPECIAL_PIECES, Vocabulary, train_vocabulary
from multistride.data.vocabulary_files import save_vocabulary
from multistride.errors import DataError, UsageError

TEXTS = [
    "A small dog runs over the grass.",
    "Ein kleiner Hund rennt über das Gras.",
    "一只小狗在草地上奔跑，没有空格。",
    "the end </s> of <s> a tag <mask> and <unk> or <pad>",
] * 5
BPE = train_vocabulary(TEXTS, 400, "bpe")
SURROGATE = chr(0xD800)


@pytest.fixture(scope="module")
def bpe():
    return BPE


@pytest.fixture(scope="module")
def words():
    return train_vocabulary(["h e l l o", "HH AH L OW", "<s> h </s>"], 50, "words")


# Guards: a text that comes back changed, because of a lost blank, an unknown character or a merge.
@settings(deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_bpe_returns_any_text(text):
    (tokens,) = BPE.encode([text])
    assert BPE.decode(tokens) == text
    assert all(token > BPE.unknown for token in tokens)


# Guards: blanks at the ends, tabs, Chinese and emoji, which random text seldom holds together.
@pytest.mark.parametrize(
    "text",
    [
        "  two  blanks ",
        "a\tb",
        "草地上的小狗",
        "🙂👩‍👩‍👧",
        "a\u2028b\x85c",
        "\ufeffx",
        "e\u0301 ﬁ",
        "",
    ],
)
def test_bpe_returns_awkward_text(bpe, text):
    assert bpe.decode_all(bpe.encode([text, text])) == [text, text]


# Guards: a sentence that spells a special token, ending the sentence in its middle.
@pytest.mark.parametrize("piece", SPECIAL_PIECES)
@pytest.mark.parametrize("pattern", ["{0}", "x{0}y", " {0} ", "{0}{0}"])
def test_text_cannot_spell_a_special_token(bpe, tmp_path, piece, pattern):
    text = pattern.format(piece)
    save_vocabulary(bpe, tmp_path)
    for vocabulary in (bpe, Vocabulary.load(tmp_path)):
        (tokens,) = vocabulary.encode([text])
        assert min(tokens) > vocabulary.unknown
        assert vocabulary.decode(tokens) == text


# Guards: the word "<s>" of a words corpus, which the model finds among the special tokens.
def test_words_that_spell_a_special_token_are_unknown(words):
    assert words.encode(["<s> h </s> <pad>"])[0][0] == words.unknown
    assert words.encode(["</s> <pad> <mask> <unk>"]) == [[words.unknown] * 4]


# Guards: ids of special tokens that differ between vocabularies, or attributes that do not match
# them.
def test_special_ids_are_fixed(bpe, words):
    for vocabulary in (bpe, words):
        ids = [vocabulary.pad, vocabulary.bos, vocabulary.eos, vocabulary.mask, vocabulary.unknown]
        assert ids == [0, 1, 2, 3, 4]
        assert vocabulary.pieces(ids) == list(SPECIAL_PIECES)


# Guards: start, end and padding that leak into the written text.
def test_decode_drops_special_tokens(bpe, words):
    (tokens,) = bpe.encode(["small dog"])
    assert bpe.decode([bpe.bos, *tokens, bpe.eos, bpe.pad, bpe.mask]) == "small dog"
    (tokens,) = words.encode(["HH  AH\tL"])
    assert words.decode([*tokens, words.eos]) == "HH AH L"


# Guards: an unseen word that gets no token at all, which would shift the others.
def test_unseen_words_become_unknown(words):
    (tokens,) = words.encode(["h zzz o"])
    assert len(tokens) == 3
    assert tokens[1] == words.unknown


# Guards: pieces shown in the inner alphabet of the tokenizer instead of as text.
def test_pieces_are_readable(bpe):
    (tokens,) = bpe.encode(["über das Gras 狗"])
    assert "".join(bpe.pieces(tokens)).startswith("über das Gras ")
    (partial,) = bpe.encode(["é"])
    assert "".join(bpe.pieces(partial)) in ("é", r"\xc3\xa9")


# Guards: a token outside the vocabulary shown as None, or counted from the end.
@pytest.mark.parametrize("token", [-1, 10**6])
def test_pieces_refuse_unknown_ids(bpe, token):
    with pytest.raises(
        DataError, match=f"token {token} is outside the vocabulary, which has 0 to {len(bpe) - 1}:"
    ):
        bpe.pieces([token])


# Guards: two runs over the same corpus whose tokenizers differ, so their models cannot be compared.
@pytest.mark.parametrize("kind", ["bpe", "words"])
def test_training_is_deterministic(tmp_path, kind):
    texts = [f"w{number} x{number % 7} ties" for number in range(500)]
    for name in ("one", "two"):
        save_vocabulary(train_vocabulary(iter(texts), 300, kind), tmp_path / name)
    first, second = (tmp_path / name / "tokenizer.json" for name in ("one", "two"))
    assert first.read_bytes() == second.read_bytes()


# Guards: a loaded vocabulary that differs from the saved one.
@pytest.mark.parametrize("kind", ["bpe", "words"])
def test_save_and_load(tmp_path, kind):
    vocabulary = train_vocabulary(TEXTS, 300, kind)
    save_vocabulary(vocabulary, tmp_path)
    loaded = Vocabulary.load(tmp_path)
    assert len(loaded) == len(vocabulary)
    assert loaded.digest() == vocabulary.digest()
    assert loaded.encode(TEXTS) == vocabulary.encode(TEXTS)
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    assert config["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert [
        config[name] for name in ("pad_token", "bos_token", "eos_token", "mask_token", "unk_token")
    ] == list(SPECIAL_PIECES)


# Guards: a traceback of the tokenizers library for a missing or broken file.
@pytest.mark.parametrize(
    "content", [None, b"", b"{}", b"\xff\xfe", b'{"version": "1.0", "model": 3}']
)
def test_load_refuses_what_is_no_tokenizer(tmp_path, content):
    if content is not None:
        (tmp_path / "tokenizer.json").write_bytes(content)
    with pytest.raises(DataError, match=r"tokenizer\.json") as caught:
        Vocabulary.load(tmp_path)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 4


# Guards: a tokenizer of another project whose padding or end of sentence has another id.
def test_load_refuses_other_special_ids(tmp_path, bpe):
    save_vocabulary(bpe, tmp_path)
    path = tmp_path / "tokenizer.json"
    path.write_text(path.read_text().replace("</s>", "<end>"))
    with pytest.raises(DataError, match=r"gives </s> the id None; it must be 2"):
        Vocabulary.load(tmp_path)


# Guards: a size that cannot hold all bytes, which would be exceeded silently.
@pytest.mark.parametrize(("kind", "size", "smallest"), [("bpe", 260, 261), ("words", 5, 6)])
def test_size_has_a_lower_limit(kind, size, smallest):
    with pytest.raises(
        UsageError, match=f"{size} is too small: a {kind} vocabulary needs {smallest}"
    ):
        train_vocabulary(["a"], size, kind)
    assert len(train_vocabulary(["a"], smallest, kind)) == smallest


# Guards: a lone surrogate, which JSON can carry, failing with a TypeError of the tokenizers
# library.
def test_encode_names_the_lone_surrogate(bpe):
    with pytest.raises(DataError, match=r"text 1 .* character 2 is a lone surrogate, U\+D800"):
        bpe.encode(["fine", "ab" + SURROGATE])


# Guards: a model that writes half a character and makes decoding fail.
def test_decode_of_broken_bytes(bpe):
    (tokens,) = bpe.encode(["\U0001f642"])
    assert len(tokens) > 1
    assert "\ufffd" in bpe.decode(tokens[:-1])


def test_a_foreign_vocabulary_spells_all_but_its_own_special_tokens():
    # Guards: "!" of GPT-2, whose id is 0, taken for padding by rules about text.
    tokenizer = Tokenizer(models.BPE(vocab={"!": 0, "a": 1, "b": 2, "ab": 3}, merges=[("a", "b")]))
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<end>"])
    roles = dict.fromkeys(("pad", "bos", "eos", "mask", "unknown"), 4)
    assert ForeignVocabulary(tokenizer, {"multistride": roles}).spellings == [
        b"!",
        b"a",
        b"b",
        b"ab",
        b"",
    ]


# Guards: a conversation that is encoded meanwhile, by which "</s>" in another's text ends it.
def test_texts_and_conversations_are_encoded_at_once(bpe):
    text = "a </s> small dog. " * 300
    rendered, plain = bpe.encode_rendered([text]), bpe.encode([text])
    assert rendered != plain
    with ThreadPoolExecutor(3) as threads:
        found = [
            threads.submit(bpe.encode if number % 2 else bpe.encode_rendered, [text])
            for number in range(120)
        ]
    wrong = [
        number
        for number, each in enumerate(found)
        if each.result() != (plain if number % 2 else rendered)
    ]
    assert wrong == []
