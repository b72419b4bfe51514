"""What policies choose, for every history a sentence can have."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from multistride.decode.choosing.cost import KeptStatistics, StepCosts
from multistride.decode.choosing.policy import Proposal, checked, cost_model, fixed, phase
from multistride.decode.ending import EndingRule
from multistride.decode.hypothesis import AS_ASKED, Group
from multistride.decode.options import DecodeOptions
from multistride.decode.pick import Picked
from multistride.decode.plan import Plan, plan
from multistride.decode.state import DecodeState
from multistride.errors import UsageError
from multistride.model.config import TransformerConfig

quick = settings(max_examples=60, deadline=None, derandomize=True)
COSTS = StepCosts(
    engine="eager", layout="lookahead", threads=1, cpu="test",
    table={1: {1: 2.0, 4: 3.0, 8: 6.0}, 4: {1: 4.0, 4: 9.0, 8: 30.0}},
)  # fmt: skip


def state_after(*histories):
    """A state in which each row has written groups of (proposed, kept, probability of each
    token)."""
    state = DecodeState([100] * len(histories), 1, EndingRule.at(2))
    for row, history in zip(state.running, histories, strict=True):
        for step, (size, kept, probability) in enumerate(history):
            scores = (math.log(probability),) * kept
            row.groups.append(Group(step, size, (5,) * kept, scores, reason=AS_ASKED))
        state.step = len(history)
    return state


def test_fixed_is_the_same_everywhere():
    # Guards: a row that is forgotten, a size that drifts.
    proposal = fixed(3)(state_after([], [(8, 8, 0.1)]))
    assert proposal.sizes.tolist() == [3, 3]
    assert len(proposal.reasons) == 2


@pytest.mark.parametrize(
    ("history", "size", "said"),
    [
        ([], 1, "begins with one token"),
        ([(2, 2, 0.9)], 4, "doubled"),
        ([(8, 8, 0.99)], 8, "doubled"),
        ([(4, 4, 0.5)], 2, "halved"),
        ([(4, 3, 0.99)], 2, "only 3 of 4"),
        ([(1, 1, 0.1)], 1, "halved"),
    ],
)
def test_phase_grows_where_the_model_is_sure(history, size, said):
    # Guards: growth after doubt, a size of 0, a size above the largest, a reason of another rule.
    proposal = phase(8, 0.5)(state_after(history))
    assert proposal.sizes.tolist() == [size]
    assert said in proposal.reasons[0]


@pytest.mark.parametrize("begun", [2, 7, 20])
def test_a_prefix_is_no_group_that_a_policy_proposed(begun):
    # Guards: a prefix of 20 tokens after which groups of 10 were proposed, whatever K was asked
    # for; and statistics that count it as a group that was kept whole.
    state = DecodeState([100], 1, EndingRule.at(2))
    tokens = torch.full((1, begun), 5)
    state.begin(Picked(tokens, torch.zeros(1, begun)), 1, 1)
    assert phase(2, 0.5)(state).sizes.tolist() == [1]
    statistics = KeptStatistics([0.5] * 7)
    before = statistics.expected(8)
    cost_model(COSTS, statistics, [1, 4, 8])(state)
    assert statistics.expected(8) == before


histories = st.lists(
    st.integers(1, 8).flatmap(
        lambda size: st.tuples(st.just(size), st.integers(1, size), st.floats(0.001, 1.0))
    ),
    max_size=4,
)


@quick
@given(st.lists(histories, min_size=1, max_size=3), st.integers(1, 8), st.floats(0, 1))
def test_sizes_lie_between_one_and_the_largest(rows, largest, threshold):
    # Guards: a size that the model was never trained for, whatever was written before.
    sizes = [size for size in (1, 4, 8) if size <= largest]
    rows = [
        [(min(size, largest), min(kept, largest), sure) for size, kept, sure in row] for row in rows
    ]
    for policy in (phase(largest, threshold), cost_model(COSTS, KeptStatistics([0.5] * 7), sizes)):
        proposal = policy(state_after(*rows))
        assert all(1 <= size <= largest for size in proposal.sizes.tolist())
        assert len(proposal.reasons) == len(rows)
        assert all(proposal.reasons)


def test_the_cost_model_weighs_tokens_against_time():
    # Guards: the cheapest step or the largest group taken for the best one; the batch forgotten.
    kept = KeptStatistics([0.9] * 7)  # 1, 3.44 and 5.70 tokens expected at K=1, 4, 8
    assert cost_model(COSTS, kept, (1, 4, 8))(state_after([])).sizes.tolist() == [
        4
    ]  # 0.5, 1.15, 0.95 a millisecond
    assert cost_model(COSTS, KeptStatistics([0.1] * 7), (1, 4, 8))(
        state_after([])
    ).sizes.tolist() == [1]
    assert cost_model(COSTS, kept, (4, 8))(state_after(*[[]] * 4)).sizes.tolist() == [4] * 4


def test_the_cost_model_learns_what_is_kept():
    # Guards: statistics that never move, or that count a group twice.
    kept = KeptStatistics([0.9] * 7)
    policy = cost_model(COSTS, kept, (1, 4, 8))
    for _ in range(100):
        policy(state_after([(4, 1, 0.5)]))
    assert kept.expected(4) == pytest.approx(1 + 18 / 120 * (1 + 0.9 + 0.81))
    assert policy(state_after([(4, 1, 0.5)])).sizes.tolist() == [1]


@quick
@given(st.lists(st.tuples(st.integers(1, 8), st.integers(1, 8)), max_size=20))
def test_expected_tokens(groups):
    # Guards: more tokens expected than a group has, fewer in a larger one.
    kept = KeptStatistics([0.5] * 7)
    kept.learn([Group(0, max(pair), (5,) * min(pair), (0.0,) * min(pair)) for pair in groups])
    expected = [kept.expected(size) for size in range(1, 9)]
    assert expected[0] == 1
    assert all(1 <= value <= size for size, value in enumerate(expected, start=1))
    assert expected == sorted(expected)


def test_costs_between_what_was_timed():
    # Guards: rows and sizes mixed up; a large batch taken for the largest that was timed.
    assert COSTS.milliseconds(1, 4) == 3.0
    assert COSTS.milliseconds(1, 2) == pytest.approx(2 + 1 / 3)
    assert COSTS.milliseconds(2, 4) == pytest.approx(5.0)
    assert COSTS.milliseconds(8, 4) == pytest.approx(18.0)


@pytest.mark.parametrize(
    "answer",
    [
        3,
        torch.tensor([2, 2]),
        Proposal(torch.tensor([2.0, 2.0]), ("a", "b")),
        Proposal(torch.tensor([2]), ("a",)),
        Proposal(torch.tensor([2, 0]), ("a", "b")),
        Proposal(torch.tensor([2, 5]), ("a", "b")),
        Proposal(torch.tensor([2, 2]), ("a",)),
        ([2, 2], ("a", "b")),
    ],
    ids=str,
)
def test_what_is_no_proposal_is_refused_in_one_line(answer):
    # Guards: an error of an index, a shape or a tuple deep inside; sizes that were never trained.
    with pytest.raises(UsageError, match="a tensor of 2 whole numbers from 1 to 4, and a reason"):
        checked(lambda state: answer, 4)(state_after([], []))


def test_a_proposal_of_ones_own_is_followed():
    own = Proposal(torch.tensor([1, 4], dtype=torch.int32), ("first", "last"))
    found = checked(lambda state: own, 4)(state_after([], []))
    assert (found.sizes.tolist(), found.reasons) == ([1, 4], ("first", "last"))


@pytest.mark.parametrize("wrong", [3, None, "fixed"])
@pytest.mark.parametrize(("verb", "name"), [("proposing", "policy"), ("allowing", "rule")])
def test_what_is_no_function_is_refused_at_once(verb, name, wrong):
    # Guards: a TypeError in the middle of a text.
    whole = plan(DecodeOptions(), TransformerConfig(vocabulary_size=9))
    unchecked = getattr(Plan, verb).__wrapped__  # without the types that tests alone check
    with pytest.raises(UsageError, match=f"the {name} is {wrong!r}, and is called: give a functi"):
        unchecked(whole, wrong)
