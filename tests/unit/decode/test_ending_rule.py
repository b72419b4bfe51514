"""The rule that ends a text gives in one go what it gives token by token."""

from hypothesis import given
from hypothesis import strategies as st

from multistride.decode.ending import EndingRule

ENDS = frozenset({2, 9})
tokens = st.lists(st.integers(0, 9), max_size=8)


def stopping(known, new):
    """A stop text of the two tokens 5, 6."""
    whole = known + new
    for index in range(len(known), len(whole)):
        if whole[max(index - 1, 0) : index + 1] == [5, 6]:
            return index + 1 - len(known)
    return None


@given(
    known=st.lists(st.sampled_from([0, 1, 5]), max_size=4),
    new=tokens,
    room=st.integers(1, 9),
    stops=st.booleans(),
)
def test_a_group_ends_where_its_tokens_one_by_one_do(known, new, room, stops):
    """Beam search asks for one token at a time, greedy decoding for a whole group."""
    rule = EndingRule(ENDS, stopping) if stops else EndingRule(ENDS)
    assert rule.reads_text == stops
    count, ending, written = 0, None, list(known)
    for token in new:
        _, ending = rule.ending(written, [token], room - count)
        written, count = [*written, token], count + 1
        if ending is not None:
            break
    assert rule.ending(known, new, room) == (count, ending)
