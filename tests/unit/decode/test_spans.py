"""The rule that copies spans of a text, against a list of all spans."""

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from multistride.data.vocab import train_vocabulary
from multistride.decode.spans import borders, spans

TEXTS = [
    "The battle of Hastings (1066) ended the reign of Harold II.",
    "Öl für 3½ Franken, naïve; l’été — fin",
    "華沙是波蘭的首都,人口約 1,790,658。",
    "हिन्दी में लिखा है",
]


@pytest.fixture(scope="module", params=["bpe", "words"])
def vocabulary(request):
    return train_vocabulary(TEXTS, 330 if request.param == "bpe" else 60, request.param)


def all_spans(text):
    """Every span of a text, by two loops over its borders."""
    places = borders(text.strip())
    cut = {text.strip()[first:last] for first in places for last in places if first < last}
    return {piece.encode() for piece in cut if piece == piece.strip()}


def allowed_by_list(text, vocabulary, written, opening):
    """The tokens that keep what is written the beginning of an opening and a span; EOS where it is
    both, whole."""
    known = b"".join(vocabulary.spellings[token] for token in written)
    listed = [opening.encode() + blank + span for span in all_spans(text) for blank in (b"", b" ")]
    ends = {vocabulary.eos} if known in listed else set()
    pieces = enumerate(vocabulary.spellings)
    longer = {
        token
        for token, piece in pieces
        if piece and any(each.startswith(known + piece) for each in listed)
    }
    return ends | longer


@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_what_may_come_next_is_what_a_list_of_all_spans_says(vocabulary, data):
    # Guards: offsets of characters taken for those of bytes, tokens that reach over the end, an EOS
    # inside a word.
    text = data.draw(st.sampled_from(TEXTS) | st.text("ab .,é華", min_size=1, max_size=12))
    opening = data.draw(st.sampled_from(["", ":", "A:"]))
    rule, written = spans(vocabulary, opening)(text), []
    for _ in range(data.draw(st.integers(0, 8))):
        allowed = rule(written)
        assert allowed == allowed_by_list(text, vocabulary, written, opening)
        going = sorted(allowed - {vocabulary.eos})
        if not going:
            break
        written.append(data.draw(st.sampled_from(going)))


@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_a_walk_never_gets_stuck_and_ends_in_a_span(data):
    # Guards: a dead end, where decoding would stop inside a word or write what does not stand in
    # the text.
    vocabulary = train_vocabulary(TEXTS, 330, "bpe")
    text = data.draw(st.sampled_from(TEXTS))
    rule, written = spans(vocabulary)(text), []
    while allowed := rule(written):
        token = data.draw(st.sampled_from(sorted(allowed)))
        if token == vocabulary.eos:
            break
        written.append(token)
    assert b"".join(vocabulary.spellings[token] for token in written).strip() in all_spans(text)


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("in 1,066 (or so)", ["in", " ", "1", ",", "066", " ", "(", "or", " ", "so", ")"]),
        ("naïve l’été", ["naïve", " ", "l", "’", "été"]),
        ("हिन्दी", ["हिन्दी"]),
        ("ab華沙", ["ab", "華", "沙"]),
    ],
)
def test_borders_are_those_of_words(text, pieces):
    # Guards: a word cut at a combining mark; a Chinese sentence taken for one word.
    places = borders(text)
    assert [text[first:last] for first, last in pairwise(places)] == pieces


def test_an_empty_text_has_no_span(vocabulary):
    # Guards: an index error on a passage of blanks; decoding then ends at once.
    assert borders("") == []
    assert spans(vocabulary)("  ")([]) == set()
