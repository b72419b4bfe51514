"""Documents in windows and in pieces: nothing lost, nothing changed."""

from itertools import pairwise
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from multistride.data.documents import encode_document, pieces_of, spans
from multistride.data.vocab import train_vocabulary


@given(st.integers(0, 5000), st.integers(1, 300), st.data())
def test_windows_hold_every_token_and_share_what_they_should(length, size, data):
    """A token lost at a border or at the end, a window too long for the model, an overlap that is
    none."""
    overlap = data.draw(st.integers(0, size - 1))
    windows = spans(length, size, overlap)
    assert windows[0].start == 0
    assert windows[-1].stop == length
    assert all(len(window) <= size for window in windows)
    assert all(later.start <= earlier.stop - overlap for earlier, later in pairwise(windows))
    assert all(earlier.start < later.start for earlier, later in pairwise(windows))
    assert len({len(window) for window in windows}) == 1


@given(st.integers(0, 5000), st.integers(1, 300), st.data())
def test_there_are_no_more_windows_than_are_needed(length, size, data):
    """A document read twice over."""
    overlap = data.draw(st.integers(0, size - 1))
    fewest = 1
    while fewest * (size - overlap) + overlap < length:
        fewest += 1
    assert len(spans(length, size, overlap)) == fewest


TEXT = st.text(st.sampled_from("ab  \n\t'9.é漢"), max_size=300)


@given(TEXT, st.integers(1, 40))
def test_pieces_are_the_text(text, size):
    """A character lost between two pieces, or pieces that grow with the text."""
    pieces = list(pieces_of(text, size))
    assert "".join(pieces) == text
    assert all(len(piece) <= 2 * size for piece in pieces)


@pytest.fixture(scope="module")
def vocabulary():
    return train_vocabulary(
        ["ab ba  ab\n\nb'a 99. é漢 aab ", "a b\tab", " ab  ab   b"] * 3, 290, "bpe"
    )


@given(
    text=st.lists(st.text(st.sampled_from("ab'9.é漢"), min_size=1, max_size=6), max_size=60),
    data=st.data(),
)
def test_pieces_have_the_tokens_of_the_whole(vocabulary, text, data):
    """A word or a run of blanks that is cut where a token would reach over."""
    blanks = [data.draw(st.sampled_from([" ", "  ", "\n\n", " \t ", "\t"])) for _ in text]
    whole = "".join(word + blank for word, blank in zip(text, blanks, strict=True))
    [expected] = vocabulary.encode([whole])
    apart = [token for piece in pieces_of(whole, 13) for token in vocabulary.encode([piece])[0]]
    cut_anywhere = any(len(piece) == 26 for piece in pieces_of(whole, 13))
    assert apart == expected or cut_anywhere


def test_a_document_without_blanks_is_encoded_in_pieces(vocabulary):
    """Memory for the whole of a text that has no place to cut."""
    text = "ab" * 150_000
    assert vocabulary.decode(encode_document(vocabulary, text)) == text


def test_one_piece_of_a_document_is_encoded_at_a_time():
    """Pieces that the tokenizer is given all at once, and so takes memory for the whole of."""
    given = []

    def encode(texts):
        given.append(sum(map(len, texts)))
        return [[1] for _ in texts]

    vocabulary = SimpleNamespace(encode_source=encode, encode_continuation=encode)
    assert encode_document(vocabulary, "ab " * 300_000) == [1] * len(given)
    assert sum(given) == 900_000
    assert max(given) < 250_000
