"""Trees of drafts: what a slot sees, and which drafts stand."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from multistride.decode.draft_tree import DraftTree, chain


@st.composite
def trees(draw):
    """Trees of few tokens, so that drafts often agree with a text; siblings differ."""
    tokens, parents = [], []
    for number in range(draw(st.integers(0, 12))):
        parent = draw(st.integers(-1, number - 1))
        taken = {tokens[each] for each in range(number) if parents[each] == parent}
        if free := [token for token in range(4) if token not in taken]:
            tokens.append(draw(st.sampled_from(free)))
            parents.append(parent)
        else:
            break
    return DraftTree(tokens, parents, [])


def above(tree, draft):
    """A draft and all those that it stands behind, the first one first."""
    return [] if draft < 0 else [*above(tree, tree.parents[draft]), draft]


@given(trees())
def test_a_slot_sees_itself_and_what_it_stands_behind(tree):
    # Guards: a sibling that is seen, the last token of the text that is not.
    visible, depths = tree.visible(), tree.depths()
    assert visible.shape == (len(tree.tokens) + 1,) * 2
    for slot in range(len(tree.tokens) + 1):
        seen = [0, *(draft + 1 for draft in above(tree, slot - 1))]
        assert visible[slot].nonzero()[0].tolist() == seen
        assert depths[slot] == len(seen) - 1


@given(trees(), st.lists(st.integers(0, 3), min_size=14, max_size=14), st.data())
def test_the_drafts_that_stand_are_the_longest_beginning_of_what_is_written(tree, text, data):
    # Guards: a path that leaves the text, that ends too early, or whose slots are not in order.
    paths = [above(tree, draft) for draft in range(-1, len(tree.tokens))]
    ahead = {draft: len(above(tree, draft)) for draft in range(-1, len(tree.tokens))}
    written = []
    for draft in range(-1, len(tree.tokens)):
        read = [tree.tokens[each] for each in above(tree, draft)]
        on_the_way = read == text[: len(read)]
        other = data.draw(st.integers(0, 3))
        written.append(text[ahead[draft]] if on_the_way else other)
    stand = max(
        (path for path in paths if [tree.tokens[each] for each in path] == text[: len(path)]),
        key=len,
    )
    assert tree.standing(written) == [0, *(draft + 1 for draft in stand)]


@given(trees(), st.integers(0, 12))
def test_the_first_drafts_are_a_tree(tree, count):
    # Guards: a draft whose parent was cut.
    cut = tree.first(count)
    assert cut.tokens == tree.tokens[:count]
    assert all(parent < draft for draft, parent in enumerate(cut.parents))


@pytest.mark.parametrize(
    ("parents", "chained"), [([], True), ([-1, 0, 1], True), ([-1, -1], False), ([-1, 0, 0], False)]
)
def test_a_chain_is_a_tree_without_branches(parents, chained):
    # Guards: a tree whose branches are lost because it is read as a chain.
    assert DraftTree(parents, parents, []).is_chain is chained
    assert chain([5, 6, 7]) == DraftTree([5, 6, 7], [-1, 0, 1], [])
    assert chain([]).is_chain
