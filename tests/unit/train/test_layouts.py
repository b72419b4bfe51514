"""Layouts are drawn sentence by sentence, in the shares that were asked for."""

import pytest
import torch

from multistride.data.batch import Batch
from multistride.groups import (
    NO_LABEL,
    PADDING_GROUP,
    equal_sizes,
    lookahead,
    previous_in_group,
    teacher_forced,
    visibility,
)
from multistride.model.config import TransformerConfig
from multistride.train.config import GroupsConfig
from multistride.train.layouts import LayoutDrawer

START, MASK = 1, 3
MODEL = TransformerConfig(vocabulary_size=40, start_token=START, mask_token=MASK)


def batch_of(lengths):
    lengths = torch.tensor(lengths)
    target = torch.arange(5, 5 + int(lengths.max())).repeat(len(lengths), 1)
    target[torch.arange(target.shape[1]) >= lengths[:, None]] = 0
    return Batch(target, lengths, target, lengths)


def draw(batch, seed=1, progress=1.0, word_dropout=0.0, **config):
    drawer = LayoutDrawer(GroupsConfig(**config), MODEL, word_dropout)
    return drawer.draw(batch, torch.Generator().manual_seed(seed), progress)


def fixed(batch, group_size):
    return LayoutDrawer(GroupsConfig(), MODEL).fixed(batch, group_size)


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
    slots, *_ = draw(batch_of([3] * rows), sizes={4: scale, 1: scale, 2: 2 * scale})
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
    slots, labels, *_ = draw(batch, sizes={1: 1.0, 3: 1.0, 5: 1.0})
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
    # Guards: borders always, or never, at multiples of K; groups larger than the size that was
    # drawn.
    rows = 400
    slots, labels, *_ = draw(batch_of([24] * rows), sizes={4: 1.0}, random_borders=share)
    sizes = [sizes_of(slots, row) for row in range(rows)]
    assert all(1 <= size <= 4 for row in sizes for size in row)
    # Six groups or more of random size are all of size 4 once in 4 ** 6 sentences.
    random = sum(set(row) != {4} for row in sizes) / rows
    assert random == pytest.approx(share, abs=0.08)
    for row in range(rows):
        assert sorted(labels[row][labels[row] != NO_LABEL].tolist()) == list(range(5, 29))


def test_partly_kept_groups_come_in_their_share():
    # Guards: rows that propose what another row keeps, and a share that is none.
    rows = 400
    slots, labels, *_ = draw(batch_of([24] * rows), sizes={4: 1.0}, partial_groups=0.3)
    asked = (labels != NO_LABEL).sum(1)
    partly = asked > 24  # what is not committed is asked for again
    assert float(partly.float().mean()) == pytest.approx(0.3, abs=0.08)
    assert (asked[~partly] == 24).all()
    real = slots.group != PADDING_GROUP
    assert (slots.reach[real] == 4).all()


def test_random_borders_leave_group_size_one_alone():
    # Guards: autoregressive sentences turned into something else.
    batch = batch_of([9, 4, 12])
    assert_same(draw(batch, sizes={1: 1.0}, random_borders=1.0), draw(batch, sizes={1: 1.0}))


def test_the_default_is_autoregressive():
    # Guards: a configuration without groups that trains anything else than a plain Transformer.
    batch = batch_of([9, 4, 12])
    assert_same(draw(batch), fixed(batch, 1))
    assert (fixed(batch, 1)[0].reach == 1).all()


def test_fixed_slots_use_one_size_for_all():
    # Guards: validation losses of a mixture reported as those of one K.
    batch = batch_of([9, 4, 12])
    expected = teacher_forced(
        batch.target, batch.target_lengths, equal_sizes(batch.target_lengths, 4), START
    )
    assert_same(fixed(batch, 4), expected)
    assert {size for row in range(3) for size in sizes_of(expected[0], row)} == {4}


def test_a_curriculum_changes_the_sizes_where_it_says():
    # Guards: a stage that begins an update late, or that never ends.
    stages = [{"until": 0.25, "sizes": {1: 1.0}}, {"until": 0.5, "sizes": {1: 0.5, 2: 0.5}}]
    groups = {"sizes": {1: 1.0, 2: 1.0, 4: 1.0}, "curriculum": stages}
    seen = {
        progress: set(
            draw(batch_of([12] * 60), progress=progress, **groups).slots.reach[:, 0].tolist()
        )
        for progress in (0.0, 0.24, 0.25, 0.49, 0.5, 1.0)
    }
    assert seen == {0.0: {1}, 0.24: {1}, 0.25: {1, 2}, 0.49: {1, 2}, 0.5: {1, 2, 4}, 1.0: {1, 2, 4}}


def test_lookahead_sentences_come_in_their_share():
    # Guards: a draft layout with the sizes or labels of another sentence.
    batch = batch_of([9, 4, 12, 7] * 100)
    slots, labels, previous, *_ = draw(batch, sizes={4: 1.0}, lookahead=0.4)
    drafts = [row for row in range(400) if slots.reach[row, 0] == 1]
    assert len(drafts) / 400 == pytest.approx(0.4, abs=0.08)
    for row in drafts:
        real = slots.group[row] != PADDING_GROUP
        anchor = int((slots.reach[row][real] == 1).sum()) - 1
        alone = (
            batch.target[row : row + 1],
            batch.target_lengths[row : row + 1],
            torch.tensor([anchor]),
        )
        expected, wanted = lookahead(*alone, 4, START, MASK)
        for field, reference in zip((*slots, labels), (*expected, wanted), strict=True):
            assert torch.equal(field[row][real], reference[0])
        assert 0 <= anchor < batch.target_lengths[row]
        for place in range(anchor + 1, int(real.sum())):
            asked = labels[row, place] != NO_LABEL
            assert previous[row, place] == (
                batch.target[row, slots.position[row, place] - 1] if asked else NO_LABEL
            )
        assert (previous[row, : anchor + 1] == NO_LABEL).all()
    others = [row for row in range(400) if row not in drafts]
    assert torch.equal(previous[others], previous_in_group(slots, labels)[others])


@pytest.mark.parametrize(("progress", "share"), [(0.0, 0.6), (0.5, 0.3), (1.0, 0.0)])
def test_glancing_reveals_less_and_less(progress, share):
    # Guards: tokens revealed and still asked for, revealed to an earlier group, or revealed at the
    # end of training.
    batch = batch_of([24] * 200)
    plain = draw(batch, sizes={4: 1.0}, progress=progress)
    slots, labels, previous, *_ = draw(batch, sizes={4: 1.0}, progress=progress, glancing=0.6)
    width = plain.labels.shape[1]
    hidden = (plain.labels != NO_LABEL) & (labels[:, :width] == NO_LABEL)
    assert hidden.sum() / (plain.labels != NO_LABEL).sum() == pytest.approx(share, abs=0.03)
    assert (labels[:, width:] == NO_LABEL).all()
    assert torch.equal(previous[:, :width], plain.previous)
    for row in range(0, 200, 40):
        revealed = [tuple(values) for values in torch.stack([*slots], -1)[row, width:].tolist()]
        expected = [
            (int(label), int(position) + 1, 1, int(group))
            for label, position, group in zip(
                plain.labels[row][hidden[row]],
                plain.slots.position[row][hidden[row]],
                plain.slots.group[row][hidden[row]],
                strict=True,
            )
        ]
        assert [each for each in revealed if each[3] != PADDING_GROUP] == expected


def test_no_slot_sees_its_own_label():
    # Guards: a target that leaks through the layout, so that training learns to copy.
    batch = batch_of([13, 5, 9])
    everything = {
        "sizes": {1: 1.0, 2: 1.0, 4: 1.0},
        "random_borders": 0.5,
        "lookahead": 0.3,
        "glancing": 0.8,
    }
    for seed in range(20):
        slots, labels, *_ = draw(batch, seed=seed, progress=0.0, **everything)
        seen = visibility(slots.group, slots.group)
        for row in range(3):
            for place in torch.nonzero(labels[row] != NO_LABEL).flatten().tolist():
                # Every token of a sentence is different here.
                assert labels[row, place] not in slots.token[row][seen[row, place]]


def test_glancing_leaves_autoregressive_sentences_alone():
    # Guards: K=1 trained on something that decoding never sees.
    batch = batch_of([9, 4, 12])
    assert_same(
        draw(batch, sizes={1: 1.0}, glancing=0.9, progress=0.0), draw(batch, sizes={1: 1.0})
    )


def test_word_dropout_hides_what_is_read_and_nothing_else():
    # Guards: start symbols or labels that disappear, and a share that is another one.
    batch = batch_of([24] * 100)
    plain, dropped = draw(batch, sizes={4: 1.0}), draw(batch, sizes={4: 1.0}, word_dropout=0.3)
    changed = plain.slots.token != dropped.slots.token
    real = plain.slots.token != START
    assert changed[real].float().mean() == pytest.approx(0.3, abs=0.03)
    assert not changed[~real].any()
    assert (dropped.slots.token[changed] == MASK).all()
    assert torch.equal(plain.labels, dropped.labels)
    assert all(
        torch.equal(one, other)
        for one, other in zip(plain.slots[1:], dropped.slots[1:], strict=True)
    )


def test_the_token_before_is_of_the_same_group():
    # Guards: a Markov head trained on tokens that decoding has not yet picked, or picked a step
    # ago.
    batch = batch_of([6, 3])
    _, labels, previous, *_ = fixed(batch, 4)
    none = NO_LABEL
    assert labels.tolist() == [[5, 6, 7, 8, 9, 10, none, none], [5, 6, 7, none] + [none] * 4]
    assert previous.tolist() == [
        [none, 5, 6, 7, none, 9, none, none],
        [none, 5, 6, none] + [none] * 4,
    ]
    assert (fixed(batch, 1).previous == NO_LABEL).all()


@pytest.mark.parametrize("choices", [{}, {"partial_groups": 1.0}, {"random_borders": 1.0}], ids=str)
def test_a_forced_first_token_is_a_group_of_its_own(choices):
    # Guards: groups that decoding, which reads the token first, never sees.
    model = MODEL.model_copy(update={"first_token": 5})
    batch = batch_of([7, 2, 1])
    drawer = LayoutDrawer(GroupsConfig(sizes={4: 1}, **choices), model)
    slots, labels, _ = drawer.draw(batch, torch.Generator().manual_seed(2))[:3]
    first = slots.group == 0
    assert first.sum(1).tolist() == [1, 1, 1]
    assert (slots.position[first].tolist(), labels[first].tolist()) == ([0] * 3, [5] * 3)
    if not choices:
        assert sizes_of(slots, 0) == [1, 4, 4]
        assert sizes_of(slots, 1) == [1, 4]
        assert_same((slots, labels), drawer.fixed(batch, 4)[:2])


def test_drafts_begin_behind_a_forced_first_token():
    # Guards: drafts from a place that decoding never drafts from.
    model = MODEL.model_copy(update={"first_token": 5})
    drawer = LayoutDrawer(GroupsConfig(sizes={4: 1}, lookahead=1.0), model)
    slots = drawer.draw(batch_of([1, 2, 3, 4] * 50), torch.Generator().manual_seed(2)).slots
    clean = ((slots.reach == 1) & (slots.group != PADDING_GROUP)).sum(1)
    assert clean.view(-1, 4).amin(0).tolist() == [2, 2, 2, 2]
    assert clean.view(-1, 4).amax(0).tolist() == [2, 2, 3, 4]
