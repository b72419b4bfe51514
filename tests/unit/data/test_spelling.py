"""What tokens spell is what their tokenizer decodes, whichever decoder it has."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from spelled_tokenizers import KINDS, vocabulary_of
from tokenizers import decoders

from multistride.data.foreign import ForeignVocabulary
from multistride.data.spelling import byte_level
from multistride.errors import UsageError

VOCABULARIES = {kind: vocabulary_of(kind) for kind in KINDS}
EVERY = pytest.mark.parametrize("kind", VOCABULARIES)
quick = settings(max_examples=60, deadline=None, derandomize=True)
TEXTS = [
    *("", " ", "   ", "a", " a", "a ", " a  b ", "  ein Haus", "ein Haus  ", "die  Häuser"),
    *("Übergrößenträger", "狗跑了", "a 狗 b", "🙂", " 🙂🙂 a", "ein\nHaus", "▁a", "<think> ein"),
    *("don't he's", "an ein ab", "<s>a</s>", "\u00a0a", "a\u2581"),
]


def decoded(text):
    """Return the text of bytes, None for bytes that are none: those are decoded in other ways."""
    try:
        return text.decode()
    except UnicodeDecodeError:
        return None


@EVERY
@pytest.mark.parametrize("text", TEXTS)
def test_the_tokens_of_texts_spell_what_they_decode_to(kind, text):
    # Guards: stop texts and banned texts that were refused for every model of SentencePiece.
    vocabulary = VOCABULARIES[kind]
    for encode in (vocabulary.encode_source, vocabulary.encode_continuation):
        [tokens] = encode([text])
        assert vocabulary.spelled(tokens).decode() == vocabulary.decode(tokens)


@EVERY
@quick
@given(data=st.data())
def test_any_tokens_spell_what_they_decode_to(kind, data):
    # Guards: the blank of a token that begins a text, dropped or kept where the decoder does not.
    vocabulary = VOCABULARIES[kind]
    tokens = data.draw(st.lists(st.integers(0, len(vocabulary) - 1), max_size=8))
    spelled = decoded(vocabulary.spelled(tokens))
    assert spelled in (None, vocabulary.decode(tokens))


@EVERY
@quick
@given(data=st.data(), length=st.integers(0, 12))
def test_the_end_of_what_tokens_spell(kind, data, length):
    vocabulary = VOCABULARIES[kind]
    tokens = data.draw(st.lists(st.integers(0, len(vocabulary) - 1), max_size=8))
    whole = vocabulary.spelled(tokens)
    assert vocabulary.spelled_end(tokens, length) == (whole[-length:] if length else b"")


def test_an_unknown_token_that_is_shown_is_spelled():
    vocabulary = VOCABULARIES["llama"]
    tokenizer = vocabulary._tokenizer.__class__.from_str(vocabulary._tokenizer.to_str())
    tokenizer.add_special_tokens(["<end>"])
    roles = dict.fromkeys(("pad", "bos", "eos", "mask"), len(vocabulary))
    shown = tokenizer.token_to_id("ein")
    other = ForeignVocabulary(tokenizer, {"multistride": {**roles, "unknown": shown}})
    assert other.decode([shown]) == other.spelled([shown]).decode() == "ein"


@pytest.mark.parametrize(
    "decoder",
    [
        decoders.BPEDecoder(),
        decoders.CTC(),
        decoders.Sequence([decoders.Fuse(), decoders.Replace("n H", "")]),
        decoders.Sequence([decoders.Fuse(), decoders.Strip(" ", 0, 1)]),
        decoders.Sequence([decoders.ByteFallback(), decoders.Strip(" ", 1, 0)]),
    ],
    ids=["suffixes", "CTC", "the whole text", "its end", "joined bytes"],
)
def test_decoders_that_look_further_are_refused(decoder):
    # Guards: rules applied to a text that is not what people read.
    vocabulary = vocabulary_of("llama")
    vocabulary._tokenizer.decoder = decoder
    with pytest.raises(UsageError, match="leave out banned texts, stop texts, spans"):
        vocabulary.spelled([9])


def test_a_piece_that_is_not_of_bytes_is_its_text():
    # Guards: a KeyError for a piece that only a broken byte-level tokenizer has.
    tokenizer = decoders.ByteLevel()
    for piece in ("Ġa", "äĸ", "狗"):
        assert byte_level(piece).decode(errors="replace") == tokenizer.decode([piece])
