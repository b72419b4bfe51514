"""Rules about text, on bytes: across tokens, inside them, and inside characters."""

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from spelled_tokenizers import vocabulary_of
from tokenizers import decoders

from multistride.data.spelling import Spellings
from multistride.data.vocab import train_vocabulary
from multistride.decode.wording import banned_texts, no_repeat, stop_texts
from multistride.errors import UsageError

BPE = train_vocabulary(["ein Haus, zwei Häuser, drei Bäume", "das Haus ist schön"] * 3, 300, "bpe")
WORDS = train_vocabulary(["a b ab c"], 20, "words")
T5, LLAMA, GEMMA = map(vocabulary_of, ("always", "llama", "gemma"))
quick = settings(max_examples=60, deadline=None, derandomize=True)


def written_under(barred, texts, vocabulary, draw):
    """Tokens taken one after another, each any that is not barred."""
    tokens = []
    for choice in draw:
        allowed = sorted(set(range(5, len(vocabulary))) - set(barred(tokens)))
        tokens.append(allowed[choice % len(allowed)])
    return tokens


@pytest.mark.parametrize(
    ("vocabulary", "texts"),
    [
        (BPE, ("aus",)),
        (BPE, ("ä", "n H")),
        (BPE, (" ",)),
        (BPE, ("e",)),
        (WORDS, ("b a", "c")),
        (WORDS, ("a",)),
        (T5, ("aus", " d", "n H")),
        (LLAMA, ("aus", " d", "ä")),
        (GEMMA, ("ein", " ")),
    ],
    ids=[
        *("a piece", "two texts", "a blank", "a letter", "two words", "a word"),
        *("T5", "Llama", "Gemma"),
    ],
)
@quick
@given(draw=st.lists(st.integers(0, 10_000), max_size=40))
def test_a_banned_text_cannot_be_written(vocabulary, texts, draw):
    # Guards: a text cut into other tokens than the vocabulary would cut it, or into bytes.
    tokens = written_under(banned_texts(texts, vocabulary), texts, vocabulary, draw)
    assert not any(text in vocabulary.decode(tokens) for text in texts)


@pytest.mark.parametrize(
    "vocabulary", [BPE, WORDS, T5, LLAMA, GEMMA], ids=["bpe", "words", "T5", "Llama", "Gemma"]
)
@settings(max_examples=15, deadline=None, derandomize=True)
@given(draw=st.lists(st.integers(0, 10_000), max_size=20))
def test_only_what_would_complete_a_banned_text_is_barred(vocabulary, draw):
    # Guards: a ban that is wider than the text; a blank that the first token does not bring.
    banned = ("aus", "n H", " d", "b a")
    barred, tokens = banned_texts(banned, vocabulary), []
    for choice in draw:
        now = barred(tokens)
        for token in range(5, len(vocabulary)):
            text = vocabulary.spelled([*tokens, token])
            assert (token in now) == any(each.encode() in text for each in banned)
        allowed = [token for token in range(5, len(vocabulary)) if token not in now]
        tokens.append(allowed[choice % len(allowed)])


@pytest.mark.parametrize("vocabulary", [BPE, WORDS], ids=["bpe", "words"])
@quick
@given(data=st.data())
def test_what_tokens_spell_is_what_they_decode_to(vocabulary, data):
    # Guards: rules that look at another text than people read.
    tokens = data.draw(st.lists(st.integers(0, len(vocabulary) - 1), max_size=12))
    assert vocabulary.spelled(tokens).decode("utf-8", errors="replace") == vocabulary.decode(tokens)


@pytest.mark.parametrize("vocabulary", [BPE, WORDS], ids=["bpe", "words"])
@quick
@given(data=st.data(), length=st.integers(0, 20))
def test_the_end_of_what_tokens_spell(vocabulary, data, length):
    tokens = data.draw(st.lists(st.integers(0, len(vocabulary) - 1), max_size=12))
    whole = vocabulary.spelled(tokens)
    assert vocabulary.spelled_end(tokens, length) == (whole[-length:] if length else b"")


@pytest.mark.parametrize("rule", [banned_texts, stop_texts])
def test_rules_about_text_look_at_its_end_alone(rule, monkeypatch):
    """All of a text was spelled anew for each of its tokens."""

    class Counted(list):
        def __getitem__(self, token):
            looked.append(token)
            return super().__getitem__(token)

    looked = []
    applied = rule(("aus.", "drei"), BPE)
    counted = Spellings(Counted(BPE.spellings), Counted(BPE.beginnings))
    monkeypatch.setitem(BPE.__dict__, "_spellings", counted)
    [written] = BPE.encode(["zwei " * 1000])
    applied(written) if rule is banned_texts else applied(written, written[:1])
    assert 0 < len(looked) < 10


@quick
@given(
    text=st.sampled_from(["ein Haus, zwei Häuser", "das Häuschen ist schön", "aus"]),
    first=st.integers(0, 6),
)
def test_a_stop_text_is_found_where_it_is_complete(text, first):
    # Guards: a stop text missed at the border of two groups or in the middle of a token, or seen a
    # token late.
    [tokens] = BPE.encode([text])
    stopped = stop_texts(("aus", "äus"), BPE)
    known, new = tokens[:first], tokens[first:]
    assume(not any(stop in BPE.decode(known) for stop in ("aus", "äus")))  # it would be over
    expected = next(
        (
            count
            for count in range(1, len(new) + 1)
            if any(stop in BPE.decode(tokens[: first + count]) for stop in ("aus", "äus"))
        ),
        None,
    )
    assert stopped(known, new) == expected


@quick
@given(st.lists(st.integers(0, 3), max_size=12), st.integers(1, 4))
def test_no_repeat_against_counting(written, length):
    # Guards: n-grams of n - 1 or n + 1 tokens, or those that overlap themselves.
    def grams(tokens):
        return [tuple(tokens[place : place + length]) for place in range(len(tokens) - length + 1)]

    seen = set(grams(written))
    barred = no_repeat(length)(written)
    assert barred == {
        token for token in range(4) if seen.intersection(grams([*written, token])[-1:])
    }


def test_a_vocabulary_that_spells_nothing_says_so():
    # Guards: rules silently applied to pieces that are not text.
    other = train_vocabulary(["a b"], 10, "words")
    other._tokenizer.decoder = decoders.BPEDecoder()
    with pytest.raises(UsageError, match="leave out banned texts, stop texts, spans"):
        banned_texts(("a",), other)
