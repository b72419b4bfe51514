"""Layouts are drawn sentence by sentence, in the shares that were asked for."""

import pytest
import torch

from multistride.data.batch import Batch
from multistride.groups import NO_LABEL, PADDING_GROUP, equal_sizes, teacher_forced
from multistride.train.config import GroupsConfig
from multistride.train.layouts import draw_slots, fixed_slots

START = 1


def batch_of(lengths):
    lengths = torch.tensor(lengths)
    target = torch.arange(5, 5 + int(lengths.max())).repeat(len(lengths), 1)
    target[torch.arange(target.shape[1]) >= lengths[:, None]] = 0
    return Batch(target, lengths, target, lengths)


def draw(batch, seed=1, **config):
    return draw_slots(batch, GroupsConfig(**config), START, torch.Generator().manual_seed(seed))


def sizes_of(slots, row):
    """The size of every group of a row, in order."""
    groups, reaches = slots.group[row].tolist(), slots.reach[row].tolist()
    pairs = zip(groups, reaches, strict=True)
    return [reach for _, reach in sorted({pair for pair in pairs if pair[0] != PADDING_GROUP})]


def assert_same(one, other):
    for first, second in zip((*one[0], one[1]), (*other[0], other[1]), strict=True):
        assert torch.equal(first, second)


@pytest.mark.parametrize("scale", [1.0, 20.0])
def test_shares_follow_the_weights(scale):
    # Guards: one draw for the whole batch, equal shares, or weights that must sum to one.
    rows = 2000
    slots, _ = draw(batch_of([3] * rows), sizes={4: scale, 1: scale, 2: 2 * scale})
    drawn = slots.reach[:, 0].bincount(minlength=5) / rows
    assert drawn[[0, 3]].sum() == 0
    assert drawn[[1, 2, 4]].tolist() == pytest.approx([0.25, 0.5, 0.25], abs=0.04)


def test_draws_follow_from_the_generator():
    # Guards: a resumed run that trains on other layouts, because a global generator was used.
    batch = batch_of([9, 4, 12, 1] * 5)
    config = {"sizes": {1: 1.0, 2: 1.0, 4: 1.0}, "random_borders": 0.5}
    torch.manual_seed(3)
    state = torch.get_rng_state()
    first = draw(batch, seed=1, **config)
    assert torch.equal(state, torch.get_rng_state())
    torch.manual_seed(4)
    assert_same(first, draw(batch, seed=1, **config))
    other = draw(batch, seed=2, **config)
    assert first[1].shape != other[1].shape or not torch.equal(first[1], other[1])


def test_every_sentence_is_a_layout_of_its_own_size():
    # Guards: a sentence laid out with the group size of another one.
    batch = batch_of([9, 4, 12, 1] * 5)
    slots, labels = draw(batch, sizes={1: 1.0, 3: 1.0, 5: 1.0})
    seen = set()
    for row in range(20):
        (size,) = set(sizes_of(slots, row))
        seen.add(size)
        alone = batch.target[row : row + 1], batch.target_lengths[row : row + 1]
        expected, wanted = teacher_forced(*alone, equal_sizes(alone[1], size), START)
        count = wanted.shape[1]
        for field, reference in zip((*slots, labels), (*expected, wanted), strict=True):
            assert torch.equal(field[row, :count], reference[0])
        assert (slots.group[row, count:] == PADDING_GROUP).all()
    assert seen == {1, 3, 5}


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_random_borders_come_in_their_share(share):
    # Guards: borders always, or never, at multiples of K; groups larger than the size that was drawn.
    rows = 400
    slots, labels = draw(batch_of([24] * rows), sizes={4: 1.0}, random_borders=share)
    sizes = [sizes_of(slots, row) for row in range(rows)]
    assert all(1 <= size <= 4 for row in sizes for size in row)
    # Six groups or more of random size are all of size 4 once in 4 ** 6 sentences.
    random = sum(set(row) != {4} for row in sizes) / rows
    assert random == pytest.approx(share, abs=0.08)
    for row in range(rows):
        assert sorted(labels[row][labels[row] != NO_LABEL].tolist()) == list(range(5, 29))


def test_random_borders_leave_group_size_one_alone():
    # Guards: autoregressive sentences turned into something else.
    batch = batch_of([9, 4, 12])
    assert_same(draw(batch, sizes={1: 1.0}, random_borders=1.0), draw(batch, sizes={1: 1.0}))


def test_the_default_is_autoregressive():
    # Guards: a configuration without groups that trains anything else than a plain Transformer.
    batch = batch_of([9, 4, 12])
    assert_same(draw(batch), fixed_slots(batch, 1, START))
    assert (fixed_slots(batch, 1, START)[0].reach == 1).all()


def test_fixed_slots_use_one_size_for_all():
    # Guards: validation losses of a mixture reported as those of one K.
    batch = batch_of([9, 4, 12])
    expected = teacher_forced(batch.target, batch.target_lengths, equal_sizes(batch.target_lengths, 4), START)
    assert_same(fixed_slots(batch, 4, START), expected)
    assert {size for row in range(3) for size in sizes_of(expected[0], row)} == {4}
