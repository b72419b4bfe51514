"""Layouts against plain lists: the slow, obvious reading of the docstrings, without a tensor in
sight."""

import itertools
from typing import NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from multistride.groups import (
    NO_LABEL,
    PADDING_GROUP,
    Drafts,
    Slots,
    draft_slots,
    equal_sizes,
    even_step_slots,
    like_lengths,
    lookahead,
    sampled_sizes,
    step_slots,
    teacher_forced,
    visibility,
)

START, MASK = 1, 3
GROUP_SIZES = range(1, 10)
LENGTHS = range(41)

quick = settings(max_examples=60, deadline=None, derandomize=True)


class Expected(NamedTuple):
    """One slot of the oracle, with the token it is to predict."""

    token: int
    position: int
    reach: int
    group: int
    label: int


def sentence(row, length):
    """A sentence in which every token names its row and its index, so that no two are alike."""
    return [1000 * (row + 1) + index for index in range(length)]


def padded(sentences):
    """Sentences as a [B, T] tensor, padded on the right, and their lengths."""
    width = max(map(len, sentences), default=0)
    table = torch.zeros(len(sentences), width, dtype=torch.long)
    for row, tokens in enumerate(sentences):
        table[row, : len(tokens)] = torch.tensor(tokens, dtype=torch.long)
    return table, torch.tensor([len(tokens) for tokens in sentences])


def padded_sizes(rows):
    return padded(rows)[0]


def whole_groups(length, size):
    """Groups of `size` until `length` tokens have one."""
    sizes = []
    while sum(sizes) < length:
        sizes.append(size)
    return sizes


def oracle(tokens, sizes, proposals=None):
    """`teacher_forced` as its docstring tells it: group after group, token after token."""
    slots, already_read, border = [], set(), 0
    for group, (size, predicted) in enumerate(zip(sizes, proposals or sizes, strict=True)):
        reads = {index for index in range(border) if index not in already_read}
        reads |= set(range(border - predicted, border))
        already_read |= reads
        for index in sorted(reads):
            position = index + predicted
            asked = border <= position < len(tokens)
            slots.append(
                Expected(
                    tokens[index] if index >= 0 else START,
                    position,
                    predicted,
                    group,
                    tokens[position] if asked else NO_LABEL,
                )
            )
        border += size
    return slots


def lookahead_oracle(tokens, anchor, size):
    slots = []
    for position in range(anchor + 1):
        read = tokens[position - 1] if position else START
        slots.append((read, position, 1, position))
    for place in range(size - 1):
        slots.append((MASK, anchor + 1 + place, place + 2, anchor + 1))
    labels = [tokens[slot[1]] if slot[1] < len(tokens) else NO_LABEL for slot in slots]
    return [Expected(*slot, label) for slot, label in zip(slots, labels, strict=True)]


def rows_of(slots, labels):
    """The real slots of every row; asserts that padding stands at the end and asks for nothing."""
    rows = []
    columns = [field.tolist() for field in (*slots, labels)]
    for fields in zip(*columns, strict=True):
        row = [Expected(*values) for values in zip(*fields, strict=True)]
        real = [slot for slot in row if slot.group != PADDING_GROUP]
        assert row[: len(real)] == real
        assert all(slot == (START, 0, 1, PADDING_GROUP, NO_LABEL) for slot in row[len(real) :])
        rows.append(real)
    assert not rows or max(map(len, rows)) == slots.token.shape[1], "a column that no row needs"
    return rows


def check_sound(row, tokens, sizes):
    """What must hold of any layout made of groups: nothing twice, nothing leaked, nothing lost."""
    starts = [sum(sizes[:group]) for group in range(len(sizes))]
    labelled = [slot.position for slot in row if slot.label != NO_LABEL]
    assert sorted(labelled) == list(range(len(tokens)))
    for slot in row:
        seen = {other.position - other.reach for other in row if other.group <= slot.group}
        assert max(seen) < starts[slot.group], "a slot sees a token that is not known yet"
        assert seen >= set(range(starts[slot.group])), "a known token is out of sight"
        if slot.label != NO_LABEL:
            assert slot.label == tokens[slot.position]
            assert max(seen) < slot.position


def random_groups():
    """A sentence's group sizes and a length that ends somewhere in the last of them."""

    def with_length(sizes):
        most = sum(sizes)
        return st.tuples(
            st.just(sizes), st.integers(most - sizes[-1] + 1, most) if sizes else st.just(0)
        )

    return st.lists(st.integers(1, 9), max_size=8).flatmap(with_length)


batches = st.lists(random_groups(), min_size=1, max_size=4)


def test_equal_groups_against_plain_lists():
    # Guards: any shift, border or label off by one, in whole or partly filled groups, alone or in a
    # batch.
    sentences = [sentence(row, length) for row, length in enumerate(LENGTHS)]
    target, lengths = padded(sentences)
    for size in GROUP_SIZES:
        sizes = equal_sizes(lengths, size)
        expected_sizes = [whole_groups(length, size) for length in LENGTHS]
        assert sizes.tolist() == padded_sizes(expected_sizes).tolist()
        found = rows_of(*teacher_forced(target, lengths, sizes, START))
        assert found == [oracle(*pair) for pair in zip(sentences, expected_sizes, strict=True)]
        for tokens in sentences:
            alone, length = padded([tokens])
            slots, labels = teacher_forced(alone, length, equal_sizes(length, size), START)
            assert rows_of(slots, labels) == [oracle(tokens, whole_groups(len(tokens), size))]


def test_equal_groups_leak_nothing_and_lose_nothing():
    # Guards: a group that sees its own tokens, misses a known one, or a token trained on twice or
    # never.
    for size, length in itertools.product(GROUP_SIZES, (1, 2, 7, 8, 9, 16, 23)):
        tokens = sentence(0, length)
        target, lengths = padded([tokens])
        (row,) = rows_of(*teacher_forced(target, lengths, equal_sizes(lengths, size), START))
        check_sound(row, tokens, whole_groups(length, size))


def test_group_size_may_differ_from_row_to_row():
    # Guards: one row's group size used for its neighbours.
    sentences = [sentence(row, length) for row, length in enumerate([9, 0, 4, 10, 1])]
    target, lengths = padded(sentences)
    group_sizes = [4, 3, 9, 1, 2]
    sizes = equal_sizes(lengths, torch.tensor(group_sizes))
    expected = [
        whole_groups(len(tokens), size) for tokens, size in zip(sentences, group_sizes, strict=True)
    ]
    assert sizes.tolist() == padded_sizes(expected).tolist()
    found = rows_of(*teacher_forced(target, lengths, sizes, START))
    assert found == [oracle(*pair) for pair in zip(sentences, expected, strict=True)]


@quick
@given(batches)
def test_arbitrary_borders_against_plain_lists(rows):
    # Guards: growing or shrinking groups that skip a token, read one twice over, or ask for a known
    # one.
    sentences = [sentence(row, length) for row, (_, length) in enumerate(rows)]
    sizes = [sizes for sizes, _ in rows]
    target, lengths = padded(sentences)
    found = rows_of(*teacher_forced(target, lengths, padded_sizes(sizes), START))
    assert found == [oracle(*pair) for pair in zip(sentences, sizes, strict=True)]
    for row, tokens, groups in zip(found, sentences, sizes, strict=True):
        check_sound(row, tokens, groups)


@quick
@given(batches, st.integers(0, 5))
def test_partly_committed_groups_against_plain_lists(rows, more):
    # Guards: what was proposed and not kept taken for known, or not predicted again by the group
    # after it.
    sentences = [sentence(row, length) for row, (_, length) in enumerate(rows)]
    sizes = [sizes for sizes, _ in rows]
    proposals = [
        [size + (more * (place + 1)) % 4 for place, size in enumerate(row)] for row in sizes
    ]
    target, lengths = padded(sentences)
    found = rows_of(
        *teacher_forced(target, lengths, padded_sizes(sizes), START, padded_sizes(proposals))
    )
    assert found == [oracle(*each) for each in zip(sentences, sizes, proposals, strict=True)]
    for row, tokens, groups in zip(found, sentences, sizes, strict=True):
        starts = [sum(groups[:group]) for group in range(len(groups))]
        assert {slot.position for slot in row if slot.label != NO_LABEL} == set(range(len(tokens)))
        for slot in row:
            seen = {other.position - other.reach for other in row if other.group <= slot.group}
            assert max(seen) < starts[slot.group]
            assert seen >= set(range(starts[slot.group]))


@pytest.mark.parametrize("sizes", [[1, 2, 3, 4, 5], [5, 4, 3, 2, 1], [1, 9, 1, 9], [9, 1, 1, 9, 2]])
def test_growing_and_shrinking_groups(sizes):
    # Guards: the two cases in which equal groups prove nothing: slots that read again, slots that
    # only read.
    tokens = sentence(0, sum(sizes) - 1)
    target, lengths = padded([tokens])
    (row,) = rows_of(*teacher_forced(target, lengths, torch.tensor([sizes]), START))
    assert row == oracle(tokens, sizes)
    check_sound(row, tokens, sizes)


def test_padded_target_tokens_are_never_read_or_asked_for():
    # Guards: the padding of a shorter neighbour read as text or trained on.
    sentences = [sentence(0, 3), sentence(1, 11)]
    target, lengths = padded(sentences)
    target[0, 3:] = 777
    for size in GROUP_SIZES:
        slots, labels = teacher_forced(target, lengths, equal_sizes(lengths, size), START)
        assert not (slots.token == 777).any()
        assert not (labels == 777).any()


def test_one_group_for_the_whole_sentence_reads_start_symbols_only():
    # Guards: the non-autoregressive end of the scale, with a group as long as the sentence or
    # longer.
    for length, extra in itertools.product((1, 5, 8), (0, 1, 4)):
        tokens = sentence(0, length)
        target, lengths = padded([tokens])
        size = length + extra
        slots, labels = teacher_forced(target, lengths, equal_sizes(lengths, size), START)
        assert slots.token.tolist() == [[START] * size]
        assert slots.position.tolist() == [list(range(size))]
        assert slots.reach.tolist() == [[size] * size]
        assert slots.group.tolist() == [[0] * size]
        assert labels.tolist() == [tokens + [NO_LABEL] * extra]


def test_group_size_one_is_the_shifted_causal_transformer():
    # Guards: the autoregressive baseline being anything but the textbook one.
    tokens = sentence(0, 6)
    target, lengths = padded([tokens])
    slots, labels = teacher_forced(target, lengths, equal_sizes(lengths, 1), START)
    assert slots.token.tolist() == [[START, *tokens[:-1]]]
    assert slots.position.tolist() == [[0, 1, 2, 3, 4, 5]]
    assert slots.reach.tolist() == [[1] * 6]
    assert labels.tolist() == [tokens]
    assert torch.equal(visibility(slots.group, slots.group)[0], torch.ones(6, 6).tril().bool())


def test_equal_groups_have_the_relaxed_causal_mask_of_the_paper():
    # Guards: a mask that hides a neighbour in the same group, or shows the next group.
    for size, length in itertools.product(GROUP_SIZES, (1, 8, 9, 20)):
        target, lengths = padded([sentence(0, length)])
        slots, _ = teacher_forced(target, lengths, equal_sizes(lengths, size), START)
        count = slots.token.shape[1]
        paper = [
            [seen < (seer // size + 1) * size for seen in range(count)] for seer in range(count)
        ]
        assert visibility(slots.group, slots.group)[0].tolist() == paper


@quick
@given(batches)
def test_visibility_against_nested_loops(rows):
    # Guards: a comparison the wrong way round, and padding that real slots attend to.
    sentences = [sentence(row, length) for row, (_, length) in enumerate(rows)]
    target, lengths = padded(sentences)
    slots, _ = teacher_forced(target, lengths, padded_sizes([sizes for sizes, _ in rows]), START)
    mask, groups = visibility(slots.group, slots.group).tolist(), slots.group.tolist()
    for row, group in enumerate(groups):
        for seer, seen in itertools.product(range(len(group)), repeat=2):
            assert mask[row][seer][seen] == (group[seen] <= group[seer])
            if group[seer] != PADDING_GROUP and group[seen] == PADDING_GROUP:
                assert not mask[row][seer][seen]
        assert all(any(line) for line in mask[row]), "an empty row of attention gives NaN"


def test_visibility_between_new_and_cached_slots():
    # Guards: seers and seen exchanged where their numbers differ, as they do with a cache.
    seen = torch.tensor([[0, 0, 1, PADDING_GROUP, 2]])
    mask = visibility(torch.tensor([[1, 2]]), seen)
    assert mask.tolist() == [[[True, True, True, False, False], [True, True, True, False, True]]]


def test_lookahead_against_plain_lists():
    # Guards: masks that stand beside the anchor, reaches off by one, an anchor at either end of the
    # sentence.
    length = 7
    for size, anchor in itertools.product(GROUP_SIZES, range(length + 1)):
        tokens = sentence(0, length)
        target, lengths = padded([tokens])
        slots, labels = lookahead(target, lengths, torch.tensor([anchor]), size, START, MASK)
        assert rows_of(slots, labels) == [lookahead_oracle(tokens, anchor, size)]


@quick
@given(
    st.lists(
        st.tuples(st.integers(0, 12), st.integers(0, 12), st.integers(1, 9)), min_size=1, max_size=5
    )
)
def test_lookahead_batches_against_plain_lists(rows):
    # Guards: anchors, lengths or group sizes of one row used for another.
    sentences = [sentence(row, length) for row, (length, _, _) in enumerate(rows)]
    anchors = [min(anchor, length) for length, anchor, _ in rows]
    sizes = [size for _, _, size in rows]
    target, lengths = padded(sentences)
    laid_out = lookahead(target, lengths, torch.tensor(anchors), torch.tensor(sizes), START, MASK)
    assert rows_of(*laid_out) == [
        lookahead_oracle(*row) for row in zip(sentences, anchors, sizes, strict=True)
    ]


def test_lookahead_writes_the_autoregressive_cache_and_leaks_nothing():
    # Guards: clean slots that see a mask (their keys would not be autoregressive), drafts that see
    # the answer.
    length = 9
    tokens = sentence(0, length)
    target, lengths = padded([tokens])
    for size, anchor in itertools.product(GROUP_SIZES, range(length + 1)):
        slots, labels = lookahead(target, lengths, torch.tensor([anchor]), size, START, MASK)
        mask = visibility(slots.group, slots.group)[0]
        clean = anchor + 1
        assert torch.equal(mask[:clean, :clean], torch.ones(clean, clean).tril().bool())
        assert not mask[:clean, clean:].any()
        assert mask[clean:].all()
        for slot, label in enumerate(labels[0].tolist()):
            read = {
                slots.token[0, seen].item() for seen in range(clean + size - 1) if mask[slot, seen]
            }
            assert label not in read
            assert label == NO_LABEL or label == tokens[slots.position[0, slot]]


@quick
@given(
    st.lists(st.tuples(st.integers(0, 9), st.integers(0, 6)), min_size=1, max_size=5),
    st.integers(1, 7),
)
def test_a_round_of_drafting_is_the_end_of_the_lookahead_layout(rows, size):
    # Guards: drafts checked at other positions than they were trained for, masks behind the wrong
    # token.
    sentences = [sentence(row, border + count) for row, (border, count) in enumerate(rows)]
    known, _ = padded(
        [tokens[:border] for tokens, (border, _) in zip(sentences, rows, strict=True)]
    )
    drafts, _ = padded(
        [tokens[border:] for tokens, (border, _) in zip(sentences, rows, strict=True)]
    )
    border, counts = torch.tensor(rows).unbind(1)
    slots = draft_slots(known, border, Drafts(drafts, counts), size, START, MASK)
    anchors = border + counts
    target, lengths = padded(sentences)
    whole = rows_of(*lookahead(target, lengths, anchors, size, START, MASK))
    for place, (row_border, count) in enumerate(rows):
        found = list(zip(*(field[place].tolist() for field in slots), strict=True))
        real = [slot for slot in found if slot[3] != PADDING_GROUP]
        assert found == [slot for slot in found if slot[3] == PADDING_GROUP] + real, (
            "padding stands on the left"
        )
        assert real == [tuple(slot[:4]) for slot in whole[place][row_border:]]
        assert len(real) == count + size


@quick
@given(batches)
def test_steps_add_up_to_the_parallel_layout(rows):
    # Guards: decoding on other slots than training, and rows of a batch that are not aligned on the
    # right.
    sentences = [sentence(row, length) for row, (_, length) in enumerate(rows)]
    known, lengths = padded(sentences)
    sizes = [sizes for sizes, _ in rows]
    whole = rows_of(*teacher_forced(known, lengths, padded_sizes(sizes), START))
    added = [[] for _ in rows]
    for step in range(max(map(len, sizes))):
        running = [row for row, groups in enumerate(sizes) if step < len(groups)]
        now = torch.tensor([sizes[row][step] for row in running])
        border = torch.tensor([sum(sizes[row][:step]) for row in running])
        unread = torch.tensor([sizes[row][step - 1] if step else 0 for row in running])
        groups = torch.full_like(border, step)
        slots = step_slots(known[running], border, unread, now, groups, START)
        check_right_aligned(slots, border, now)
        for place, row in enumerate(running):
            values = zip(*(field[place].tolist() for field in slots), strict=True)
            added[row] += [value for value in values if value[3] != PADDING_GROUP]
    assert added == [[slot[:4] for slot in row] for row in whole]


def check_right_aligned(slots: Slots, border, sizes):
    """The group's own slots are the last columns in every row; what pads a row stands before
    them."""
    for row, (first, size) in enumerate(zip(border.tolist(), sizes.tolist(), strict=True)):
        assert slots.position[row, -size:].tolist() == list(range(first, first + size))
        padding = (slots.group[row] == PADDING_GROUP).tolist()
        assert padding == sorted(padding, reverse=True)
        assert not all(padding)


def test_a_step_after_partial_acceptance_reads_every_new_token():
    # Guards: kept tokens that no slot ever reads when fewer or more were kept than are written
    # next.
    known = torch.tensor([sentence(0, 9), sentence(1, 9)])
    slots = step_slots(
        known,
        torch.tensor([5, 9]),
        torch.tensor([3, 4]),
        torch.tensor([2, 2]),
        torch.tensor([2, 2]),
        START,
    )
    assert slots.token.tolist() == [[START, *known[0, 2:5].tolist()], known[1, 5:9].tolist()]
    assert slots.position.tolist() == [[0, 4, 5, 6], [7, 8, 9, 10]]
    assert slots.reach.tolist() == [[1, 2, 2, 2], [2, 2, 2, 2]]
    assert slots.group.tolist() == [[PADDING_GROUP, 2, 2, 2], [2, 2, 2, 2]]


@quick
@given(
    st.lists(st.tuples(st.integers(0, 40), st.integers(1, 9)), min_size=1, max_size=6),
    st.integers(0, 2**31),
)
def test_sampled_sizes_cover_the_sentence(rows, seed):
    # Guards: tokens without a group, groups behind the end, sizes of 0 inside or above the largest
    # allowed.
    lengths, largest = (torch.tensor(column) for column in zip(*rows, strict=True))
    first, second = (
        sampled_sizes(lengths, largest, torch.Generator().manual_seed(seed)) for _ in range(2)
    )
    assert torch.equal(first, second)
    for sizes, (length, most) in zip(first.tolist(), rows, strict=True):
        count = sum(size > 0 for size in sizes)
        assert all(1 <= size <= most for size in sizes[:count])
        assert not any(sizes[count:])
        assert sum(sizes[:count]) >= length
        assert sum(sizes[: max(count - 1, 0)]) < max(length, 1)


def test_sampled_sizes_are_uniform():
    # Guards: a largest size that is never drawn, or size 1 drawn too often.
    lengths = torch.full((300,), 40)
    sizes = sampled_sizes(lengths, torch.full((300,), 4), torch.Generator().manual_seed(1))
    first = sizes[:, 0].bincount(minlength=5)[1:] / 300
    assert ((first - 0.25).abs() < 0.08).all()


def test_empty_batches():
    # Guards: a crash on a batch of empty sentences, or on no sentence at all.
    for count in (0, 3):
        lengths, target = (
            torch.zeros(count, dtype=torch.long),
            torch.zeros(count, 0, dtype=torch.long),
        )
        for sizes in (equal_sizes(lengths, 4), sampled_sizes(lengths, torch.full_like(lengths, 4))):
            assert sizes.shape == (count, 0)
            slots, labels = teacher_forced(target, lengths, sizes, START)
            assert {field.shape for field in (*slots, labels)} == {(count, 0)}
            assert visibility(slots.group, slots.group).shape == (count, 0, 0)


def test_slots_keep_their_values_on_another_device():
    # Guards: fields exchanged when slots move.
    slots = Slots(*(torch.full((1, 2), value) for value in range(4)))
    assert all(torch.equal(one, other) for one, other in zip(slots, slots.to("cpu"), strict=True))


@given(
    border=st.integers(0, 9),
    unread=st.integers(0, 5),
    group_size=st.integers(1, 8),
    rows=st.integers(1, 3),
)
def test_even_rows_have_the_slots_of_any_rows(border, unread, group_size, rows):
    # Guards: the short way laying out other slots than the general one, above all at the beginning
    # of a sentence.
    unread = min(unread, border)
    known = torch.arange(1, 1 + rows * 12).view(rows, 12)
    many = [torch.full((rows,), value) for value in (border, unread, group_size, 3)]
    general = step_slots(known, *many, start_token=99)
    for short, long in zip(
        even_step_slots(known, border, unread, group_size, 3, 99), general, strict=True
    ):
        assert short.tolist() == long.tolist()


@settings(deadline=None)
@given(st.lists(st.integers(0, 12), max_size=8), st.integers(0, 20))
def test_parts_of_like_length_cost_least(counts, overhead):
    # Guards: rows lost between parts, a part cut where it does not pay.
    counts = sorted(counts)

    def cost(sizes):
        ends = list(itertools.accumulate(sizes))
        return sum(size * counts[end - 1] + overhead for size, end in zip(sizes, ends, strict=True))

    def all_cuts(rows):
        if rows == 0:
            yield []
        for first in range(1, rows + 1):
            yield from ([first, *rest] for rest in all_cuts(rows - first))

    sizes = like_lengths(counts, overhead)
    assert sum(sizes) == len(counts)
    assert all(size > 0 for size in sizes)
    assert cost(sizes) == min(cost(cuts) for cuts in all_cuts(len(counts)))


def test_parts_need_sorted_lengths():
    # Guards: parts that are padded to some row that is not the longest.
    with pytest.raises(ValueError, match="sorted"):
        like_lengths([3, 1], 4)
