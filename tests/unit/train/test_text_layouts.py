"""Layouts of texts without sources: what is known, what is predicted, and what drafts see."""

import pytest
import torch

from multistride.data.batch import Batch
from multistride.groups import NO_LABEL, PADDING_GROUP, draft_masks, draft_visibility, visibility
from multistride.model.config import AdapterConfig, TransformerConfig
from multistride.train.config import GroupsConfig
from multistride.train.layouts import LayoutDrawer


def drawer(start_symbol=True, adapter=None, **groups):
    sizes = {
        "vocabulary_size": 99,
        "encoder_layers": 0,
        "start_symbol": start_symbol,
        "adapter": adapter,
    }
    return LayoutDrawer(GroupsConfig(**groups), TransformerConfig(**sizes))


def texts(lengths=(30, 12, 25, 30), known=(0, 4, 8, 29)):
    target = torch.randint(
        5, 99, (len(lengths), max(lengths)), generator=torch.Generator().manual_seed(1)
    )
    return Batch(None, None, target, torch.tensor(lengths), torch.tensor(known))


def drawn(asked, batch, seed=3):
    return asked.draw(batch, torch.Generator().manual_seed(seed))


def labels_by_position(asked, batch, row):
    clean = asked.labels[row, : asked.slots.token.shape[1]]
    positions = asked.slots.position[row]
    return {
        int(positions[place]): int(clean[place])
        for place in (clean != NO_LABEL).nonzero().flatten()
    }


@pytest.mark.parametrize("groups", [{}, {"random_borders": 1.0}, {"partial_groups": 1.0}])
def test_everything_but_the_known_is_predicted_once(groups):
    # Guards: known tokens that are trained, tokens between prompt and groups that are not.
    batch = texts()
    for seed in range(5):
        asked = drawn(drawer(sizes={1: 0.2, 2: 0.4, 4: 0.4}, **groups), batch, seed)
        for row, (length, known) in enumerate(
            zip(batch.target_lengths.tolist(), batch.known.tolist(), strict=True)
        ):
            expected = {place: int(batch.target[row, place]) for place in range(known, length)}
            assert labels_by_position(asked, batch, row) == expected


def test_texts_without_start_symbol_begin_with_their_own_token():
    # Guards: the first token predicted from a start symbol that the model has never seen.
    batch = texts()
    asked = drawn(drawer(start_symbol=False, sizes={2: 1.0}), batch)
    first = (asked.slots.position == 0) & (asked.slots.group != PADDING_GROUP)
    assert not first.any()
    assert set(labels_by_position(asked, batch, 0)) == set(range(1, 30))


def test_known_tokens_are_read_as_at_k1():
    batch = texts()
    asked = drawn(drawer(sizes={4: 1.0}), batch)
    for row, known in enumerate(batch.known.tolist()):
        assert asked.slots.reach[row, :known].tolist() == [1] * known
        assert asked.slots.group[row, :known].tolist() == list(range(known))


def test_drafts_are_laid_out_behind_many_places():
    # Guards: labels of the wrong place, anchors inside what is known, drafts past the end, one
    # anchor drawn twice.
    batch = texts(known=(0, 4, 8, 27))
    asked = drawn(drawer(sizes={4: 1.0}, lookahead=1.0, anchors=6), batch)
    assert asked.drafts is not None
    labels = asked.labels[:, asked.slots.token.shape[1] :]
    for row, (length, known) in enumerate(
        zip(batch.target_lengths.tolist(), batch.known.tolist(), strict=True)
    ):
        here = asked.drafts.group[row] != PADDING_GROUP
        anchors = asked.drafts.group[row][here]
        assert len(set(anchors.tolist())) * 3 == int(here.sum())
        assert anchors.min() >= known
        assert anchors.max() < length - 1
        position, reach = asked.drafts.position[row][here], asked.drafts.reach[row][here]
        assert torch.equal(position, anchors + reach - 1)
        expected = [
            int(batch.target[row, place]) if place < length else NO_LABEL
            for place in position.tolist()
        ]
        assert labels[row][here].tolist() == expected
    assert asked.previous.shape == asked.labels.shape


def test_what_drafts_see():
    # Guards: a draft that sees its own answer, or the drafts of another place.
    target = torch.arange(5, 15)[None]
    slots, _ = draft_masks(target, torch.tensor([10]), torch.tensor([[2, 6]]), 3, 3)
    clean = torch.arange(10)[None]
    seen = draft_visibility(clean, slots.group)[0]
    assert slots.position.tolist() == [[3, 4, 7, 8]]
    assert slots.reach.tolist() == [[2, 3, 2, 3]]
    assert [row[:10].tolist() for row in seen] == [[True] * 3 + [False] * 7] * 2 + [
        [True] * 7 + [False] * 3
    ] * 2
    assert (
        seen[:, 10:].tolist() == [[True, True, False, False]] * 2 + [[False, False, True, True]] * 2
    )
    assert not visibility(clean, slots.group + 100).any()


def test_adapters_are_trained_on_drafts_alone():
    batch = texts(known=(0, 4, 8, 20))
    asked = drawn(drawer(sizes={4: 1.0}, lookahead=1.0, adapter=AdapterConfig(layers=1)), batch)
    assert (asked.labels[:, : asked.slots.token.shape[1]] == NO_LABEL).all()
    assert asked.labelled() > 0


def test_validation_asks_the_same_every_time():
    # Guards: a validation loss that depends on chance, or that measures another layout than is
    # trained.
    batch = texts(known=(0, 4, 8, 20))
    asked = drawer(sizes={4: 1.0}, lookahead=1.0, anchors=4)
    one, other = asked.fixed(batch, 4), asked.fixed(batch, 4)
    assert torch.equal(one.labels, other.labels)
    assert one.drafts is not None
    assert (one.labels[:, : one.slots.token.shape[1]] == NO_LABEL).all()
    assert asked.fixed(batch, 1).drafts is None
    assert drawer(sizes={4: 1.0}).fixed(batch, 4).drafts is None
