"""Every rule that ends a sentence, at every place of a group."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from multistride.decode.ending import EndingRule
from multistride.decode.pick import Picked
from multistride.decode.state import DecodeState
from multistride.groups import PADDING_GROUP

START, END = 1, 2

quick = settings(max_examples=80, deadline=None, derandomize=True)


def picked(rows):
    """Tokens of one step [R, K], each with a log-probability that tells it from the others."""
    tokens = torch.tensor(rows)
    return Picked(tokens, -(tokens.float() / 8 + torch.arange(tokens.shape[1])))


def whole(group):
    return torch.full((len(group.tokens),), group.tokens.shape[1])


def commit(state, rows, kept=None):
    """Commit one step the way the loop does, and let the rows that are over leave."""
    group = picked(rows)
    state.slots(group.tokens.shape[1])
    state.commit(group, whole(group) if kept is None else torch.tensor(kept))
    return state.leave()


def endings(state):
    return [hypothesis.ending for hypothesis in state.hypotheses]


def tokens_of(state):
    return [hypothesis.tokens for hypothesis in state.hypotheses]


@pytest.mark.parametrize(
    ("group", "limit", "tokens", "written", "ending"),
    [
        pytest.param([END, 5, 6, 7], 9, [], 1, "end", id="end first in the group"),
        pytest.param([5, END, 6, 7], 9, [5], 2, "end", id="end in the middle"),
        pytest.param([5, 6, 7, END], 9, [5, 6, 7], 4, "end", id="end last"),
        pytest.param([5, END, END, 7], 9, [5], 2, "end", id="end twice"),
        pytest.param([5, 6, 7, END], 4, [5, 6, 7], 4, "end", id="end exactly on the limit"),
        pytest.param([5, 6, END, 7], 2, [5, 6], 2, "limit", id="end just past the limit"),
        pytest.param([5, 6, 7, 8], 4, [5, 6, 7, 8], 4, "limit", id="the limit is the group"),
        pytest.param([5, 6, 7, 8], 3, [5, 6, 7], 3, "limit", id="the limit inside the group"),
        pytest.param([5, 6, 7, 8], 1, [5], 1, "limit", id="a limit of one"),
        pytest.param([END, 6, 7, 8], 1, [], 1, "end", id="end on a limit of one"),
        pytest.param([5, 6, 7, 8], 5, [5, 6, 7, 8], 4, None, id="not over yet"),
        pytest.param([5], 1, [5], 1, "limit", id="one token at a time, limit"),
        pytest.param([END], 1, [], 1, "end", id="one token at a time, end"),
        pytest.param([5], 2, [5], 1, None, id="one token at a time, going on"),
    ],
)
def test_endings_within_one_group(group, limit, tokens, written, ending):
    # Guards: EOS and the limit falling together (neither or both applied), and text after EOS kept.
    state = DecodeState([limit], START, EndingRule.at(END))
    commit(state, [group])
    assert (tokens_of(state), endings(state)) == ([tokens], [ending])
    assert len(state.hypotheses[0].log_probabilities) == written
    assert state.done == (ending is not None)


@pytest.mark.parametrize("group_size", [1, 2, 3, 4, 8, 20])
def test_a_limit_that_is_no_multiple_of_the_group_size(group_size):
    # Guards: a sentence longer than its limit, or one group too few or too many.
    state = DecodeState([7, 13], START, EndingRule.at(END))
    while not state.done:
        commit(state, [[5 + step for step in range(group_size)] for _ in state.running])
    assert [len(tokens) for tokens in tokens_of(state)] == [7, 13]
    assert endings(state) == ["limit", "limit"]
    assert [hypothesis.steps for hypothesis in state.hypotheses] == [
        -(-7 // group_size),
        -(-13 // group_size),
    ]


@pytest.mark.parametrize("place", range(4))
def test_end_in_a_later_group(place):
    # Guards: EOS seen only in the first group, or looked for across the border of groups.
    state = DecodeState([20], START, EndingRule.at(END))
    commit(state, [[5, 6, 7, 8]])
    group = [9, 9, 9, 9]
    group[place] = END
    commit(state, [group])
    assert tokens_of(state) == [[5, 6, 7, 8] + [9] * place]
    assert endings(state) == ["end"]


def test_all_rows_end_at_once():
    # Guards: a batch that goes on, or fails, when nobody is left in it.
    state = DecodeState([9, 9, 2], START, EndingRule.at(END))
    stay = commit(state, [[END, 5, 5], [5, 5, END], [5, 5, 5]])
    assert stay.tolist() == []
    assert state.done
    assert state.running == []
    assert endings(state) == ["end", "end", "limit"]


def test_a_row_that_never_ends_stops_at_its_limit_alone():
    # Guards: a row kept alive, or cut short, by what its neighbours do.
    state = DecodeState([30, 30, 30], START, EndingRule.at(END))
    stay = commit(state, [[END, 5], [6, 6], [5, END]])
    assert stay.tolist() == [1]
    while not state.done:
        commit(state, [[6, 6]])
    assert tokens_of(state) == [[], [6] * 30, [5]]
    assert endings(state) == ["end", "limit", "end"]
    assert [hypothesis.steps for hypothesis in state.hypotheses] == [1, 15, 1]


def test_rejected_tokens_end_nothing():
    # Guards: an EOS, or a limit, in the part of a group that was not accepted.
    state = DecodeState([4], START, EndingRule.at(END))
    commit(state, [[5, 6, END, 7]], kept=[2])
    assert (tokens_of(state), endings(state)) == ([[5, 6]], [None])
    commit(state, [[7, 8, 9, 9]], kept=[1])
    assert (tokens_of(state), endings(state)) == ([[5, 6, 7]], [None])
    commit(state, [[END, 9, 9, 9]], kept=[1])
    assert (tokens_of(state), endings(state)) == ([[5, 6, 7]], ["end"])


def test_cancel_between_steps():
    # Guards: a cancelled sentence that goes on, loses what it has, or stops its neighbours.
    state = DecodeState([9, 9], START, EndingRule.at(END))
    commit(state, [[5, 6], [7, 8]])
    state.cancel(0)
    stay = commit(state, [[5, 6], [7, 8]])
    assert stay.tolist() == [1]
    assert tokens_of(state) == [[5, 6], [7, 8, 7, 8]]
    assert endings(state) == ["cancelled", None]


def test_cancel_while_leaving_keeps_out_of_the_next_step():
    # Guards: a step computed for a sentence that was cancelled when its last group was handed out.
    state = DecodeState([9, 9], START, EndingRule.at(END))
    group = picked([[5], [7]])
    state.slots(1)
    state.commit(group, whole(group))
    state.cancel(1)
    assert state.leave().tolist() == [0]
    assert state.slots(1).token.tolist() == [[5]]


def test_cancel_does_not_rename_an_ending():
    # Guards: a finished sentence reported as cancelled, whose EOS would then be shown as text.
    state = DecodeState([9, 1], START, EndingRule.at(END))
    commit(state, [[5, END], [6, 6]])
    for row in (0, 1):
        state.cancel(row)
    assert endings(state) == ["end", "limit"]
    assert tokens_of(state) == [[5], [6]]


def test_cancel_before_the_first_step():
    # Guards: text written by a sentence that was cancelled while it waited.
    state = DecodeState([9], START, EndingRule.at(END))
    state.cancel(0)
    assert state.done
    commit(state, [[5, 6]])
    assert (tokens_of(state), endings(state)) == ([[]], ["cancelled"])
    assert state.done
    assert state.hypotheses[0].steps == 0


def test_leave_says_who_stays():
    # Guards: memory reordered when it need not be, or rows that change places without filling a
    # gap.
    state = DecodeState([9, 9, 9, 9], START, EndingRule.at(END))
    assert commit(state, [[5], [6], [7], [8]]) is None
    assert commit(state, [[END], [6], [END], [8]]).tolist() == [3, 1]
    assert [hypothesis.row for hypothesis in state.running] == [3, 1]
    assert state.slots(1).token.tolist() == [[8], [6]]
    assert commit(state, [[6], [END]]).tolist() == [0]
    assert state.slots(1).token.tolist() == [[6]]


def test_commit_returns_the_rows_it_wrote_into():
    # Guards: the last group of a sentence missing from a stream.
    state = DecodeState([9, 9], START, EndingRule.at(END))
    group = picked([[END], [5]])
    state.slots(1)
    assert [hypothesis.row for hypothesis in state.commit(group, whole(group))] == [0, 1]
    state.leave()
    group = picked([[5]])
    assert [hypothesis.row for hypothesis in state.commit(group, whole(group))] == [1]


def test_no_sentence_at_all():
    # Guards: a crash on an empty batch.
    state = DecodeState([], START, EndingRule.at(END))
    assert state.done
    assert state.hypotheses == []


def alone(limit, steps):
    """One row by itself: token after token until something ends it. Returns its groups and its
    ending."""
    groups, written = [], 0
    for step, (tokens, kept) in enumerate(steps):
        group, ending = [], None
        for token in tokens[:kept]:
            group.append(token)
            written += 1
            if token == END:
                ending = "end"
            elif written == limit:
                ending = "limit"
            if ending:
                break
        groups.append((step, len(tokens), tuple(group)))
        if ending:
            return groups, ending
    return groups, None


@st.composite
def decodings(draw):
    """Limits of some rows, and the groups picked for all of them with the counts that are kept."""
    limits = draw(st.lists(st.integers(1, 14), min_size=1, max_size=4))
    steps = []
    for size in draw(st.lists(st.integers(1, 6), min_size=1, max_size=8)):
        token = st.one_of(st.integers(5, 30), st.integers(5, 30), st.integers(5, 30), st.just(END))
        group = st.tuples(st.lists(token, min_size=size, max_size=size), st.integers(1, size))
        steps.append(draw(st.lists(group, min_size=len(limits), max_size=len(limits))))
    return limits, steps


@quick
@given(decodings())
def test_batches_against_single_rows(decoding):
    # Guards: rows that influence each other, whatever is picked and kept, and slots that read other
    # tokens.
    limits, steps = decoding
    state = DecodeState(limits, START, EndingRule.at(END))
    taken = 0
    for step in steps:
        if state.done:
            break
        taken += 1
        size = len(step[0][0])
        check_slots(state, size)
        rows = [hypothesis.row for hypothesis in state.running]
        stay = commit(state, [step[row][0] for row in rows], [step[row][1] for row in rows])
        expected = [place for place, row in enumerate(rows) if state.hypotheses[row].ending is None]
        found = list(range(len(rows))) if stay is None else stay.tolist()
        assert sorted(found) == expected
        assert all(place == row for place, row in enumerate(found) if row < len(found)), (
            "a row moved without need"
        )
    for row, hypothesis in enumerate(state.hypotheses):
        groups, ending = alone(limits[row], [step[row] for step in steps[:taken]])
        assert [
            (group.step, group.group_size, group.tokens) for group in hypothesis.groups
        ] == groups
        assert hypothesis.ending == ending
        assert END not in hypothesis.tokens
        written = [token for _, _, tokens in groups for token in tokens]
        assert hypothesis.tokens == (written[:-1] if ending == "end" else written)
        places = [place for _, _, tokens in groups for place in range(len(tokens))]
        scores = [-(token / 8 + place) for token, place in zip(written, places, strict=True)]
        assert hypothesis.log_probabilities == scores
        assert hypothesis.steps == len(groups)
    assert state.done == all(ending is not None for ending in endings(state))


def check_slots(state, size):
    """The last columns predict what comes next in every row, and the slots read every token not
    read before."""
    slots = state.slots(size)
    for place, hypothesis in enumerate(state.running):
        tokens = hypothesis.tokens
        border = len(tokens)
        reads = [
            (
                slots.token[place, column].item(),
                (slots.position - slots.reach)[place, column].item(),
            )
            for column in range(slots.token.shape[1])
            if slots.group[place, column] != PADDING_GROUP
        ]
        assert slots.position[place, -size:].tolist() == list(range(border, border + size))
        assert all(token == (tokens[index] if index >= 0 else START) for token, index in reads)
        unread = len(hypothesis.groups[-1].tokens) if hypothesis.groups else 0
        assert [index for _, index in reads] == list(range(border - max(size, unread), border))
