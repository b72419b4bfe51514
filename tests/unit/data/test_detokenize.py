"""Text from tokens that are still coming."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from multistride.data.detokenize import REPLACEMENT, TextStream, one_line
from multistride.data.vocab import train_vocabulary

TEXTS = ["Grüße aus 北京", "\U0001f600 a\r\nb\u2028c", "ab ab ab"]
BPE = train_vocabulary(TEXTS, 280, "bpe")
WORDS = train_vocabulary(["a b c", "b c d"], 32, "words")


@pytest.mark.parametrize("vocabulary", [BPE, WORDS], ids=["bpe", "words"])
@given(data=st.data())
def test_the_parts_joined_are_the_text(vocabulary, data):
    # Guards: a part that is taken back, doubled or lost: at group borders, in broken UTF-8, at line ends.
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
