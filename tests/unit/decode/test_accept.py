"""Acceptors against loops over single tokens."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from multistride.decode.accept import accept_all, confident_prefix, verified_prefix
from multistride.decode.pick import Picked

quick = settings(max_examples=80, deadline=None, derandomize=True)
probabilities = st.lists(
    st.lists(st.floats(0.01, 1.0), min_size=4, max_size=4), min_size=1, max_size=4
)


def picked(rows):
    values = torch.tensor(rows, dtype=torch.float64)
    return Picked(torch.zeros(values.shape, dtype=torch.long), values.log().float())


def whole(rows):
    return torch.tensor([len(row) for row in rows])


@quick
@given(probabilities, st.floats(0, 1))
def test_confident_prefix(rows, threshold):
    # Guards: a token kept behind one that was not, and a group of which nothing is kept (an endless
    # loop).
    for row, kept in zip(
        rows, confident_prefix(threshold)(picked(rows), whole(rows)).tolist(), strict=True
    ):
        assert 1 <= kept <= 4
        together = [math.prod(row[: count + 1]) for count in range(4)]
        assert all(value >= threshold * (1 - 1e-4) for value in together[1:kept])
        if kept < 4:
            assert together[kept] <= threshold * (1 + 1e-4)


@pytest.mark.parametrize(("threshold", "expected"), [(0.0, 4), (1.0, 1)])
def test_the_ends_of_the_scale(threshold, expected):
    # Guards: the logarithm of zero, and certainty that rounding takes away.
    rows = [[0.9, 0.8, 0.7, 0.6]]
    assert confident_prefix(threshold)(picked(rows), whole(rows)).tolist() == [expected]
    assert accept_all(picked(rows), whole(rows)).tolist() == [4]


def test_a_smaller_group_ends_before_the_widest():
    # Guards: columns behind a row's own group, which only fill the batch, kept as its tokens.
    rows, sizes = [[0.9, 0.9, 0.9], [0.9, 0.9, 0.9]], torch.tensor([3, 2])
    assert confident_prefix(0.1)(picked(rows), sizes).tolist() == [3, 2]
    assert accept_all(picked(rows), sizes).tolist() == [3, 2]


@quick
@given(
    st.lists(
        st.tuples(st.lists(st.integers(0, 2), min_size=5, max_size=5), st.integers(0, 4)),
        min_size=1,
    )
)
def test_verified_prefix(rows):
    # Guards: a draft that is not there counted as right, agreement after a first difference.
    drafts = torch.tensor([[0, 1, 2, 0] for _ in rows])
    choices, counts = (
        torch.tensor([choice for choice, _ in rows]),
        torch.tensor([count for _, count in rows]),
    )
    for (choice, count), kept in zip(
        rows, verified_prefix(choices, drafts, counts).tolist(), strict=True
    ):
        expected = 1
        for place in range(count):
            if choice[place] != [0, 1, 2, 0][place]:
                break
            expected += 1
        assert kept == expected
