"""Text from tokens that are still coming."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from multistride.data import detokenize
from multistride.data.detokenize import REPLACEMENT, TextStream, one_line, until
from multistride.data.vocab import train_vocabulary

TEXTS = ["Grüße aus 北京", "\U0001f600 a\r\nb\u2028c", "ab ab ab"]
BPE = train_vocabulary(TEXTS, 280, "bpe")
WORDS = train_vocabulary(["a b c", "b c d"], 32, "words")


@pytest.fixture(autouse=True, scope="module", params=[False, True], ids=["window", "small"])
def window(request):
    """Run all tests a second time where only the last few tokens are decoded anew."""
    with pytest.MonkeyPatch.context() as patch:
        if request.param:
            patch.setattr(detokenize, "WINDOW", 3)
            patch.setattr(detokenize, "CONTEXT", 2)
        yield


@pytest.mark.parametrize("vocabulary", [BPE, WORDS], ids=["bpe", "words"])
@given(data=st.data())
def test_the_parts_joined_are_the_text(vocabulary, data):
    # Guards: a part that is taken back, doubled or lost: at group borders, in broken UTF-8, at line
    # ends.
    token = st.integers(0, len(vocabulary) - 1)
    groups = data.draw(st.lists(st.lists(token, max_size=4), max_size=12))
    stream = TextStream(vocabulary)
    parts = [stream.add(group) for group in groups]
    whole = one_line(vocabulary.decode([each for group in groups for each in group]))
    assert whole.startswith("".join(parts))
    assert "".join([*parts, stream.end()]) == whole


@pytest.mark.parametrize("size", [1, 2, 3])
def test_a_character_comes_whole(size):
    for text in TEXTS:
        [tokens] = BPE.encode([text])
        stream = TextStream(BPE)
        parts = [stream.add(tokens[place : place + size]) for place in range(0, len(tokens), size)]
        assert not any(REPLACEMENT in part for part in parts)
        assert "".join([*parts, stream.end()]) == one_line(BPE.decode(tokens))


@given(data=st.data())
def test_the_parts_joined_end_before_a_stop_text(data):
    # Guards: the beginning of a stop text handed out before the rest of it came, or held back for
    # ever.
    token = st.integers(0, len(BPE) - 1)
    groups = data.draw(st.lists(st.lists(token, max_size=4), max_size=12))
    stops = data.draw(st.lists(st.sampled_from(["a", "ab", "ü", " ab", "b a", "aus"]), max_size=3))
    stream = TextStream(BPE, stops)
    parts = [stream.add(group) for group in groups]
    whole = one_line(until(BPE.decode([each for group in groups for each in group]), stops))
    assert whole.startswith("".join(parts))
    assert "".join([*parts, stream.end()]) == whole


def test_what_may_begin_a_stop_text_waits():
    [tokens] = BPE.encode(["ab ab"])
    stream = TextStream(BPE, [" abc"])
    assert "".join(stream.add([each]) for each in tokens) == "ab"
    assert stream.end() == " ab"


def test_a_long_text_is_not_decoded_again_for_every_part(monkeypatch):
    # Guards: a stream of n tokens that decodes n * n / 2 of them.
    [tokens] = BPE.encode([" ".join(TEXTS) * 20])
    decoded, decode = [], BPE.decode
    monkeypatch.setattr(BPE, "decode", lambda part: (decoded.append(len(part)), decode(part))[1])
    stream = TextStream(BPE)
    parts = [stream.add([token]) for token in tokens]
    assert "".join([*parts, stream.end()]) == one_line(decode(tokens))
    assert max(decoded) <= detokenize.WINDOW + 4
