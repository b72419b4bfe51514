"""Mask-predict as a layout and a writer."""

import torch

from multistride.course.laboratory import WIDTH
from multistride.course.refinement import MaskedLayouts, Refiner, canvas
from multistride.data.batch import Batch
from multistride.decode.corpus import source_batch
from multistride.decode.ending import EndingRule
from multistride.decode.loop import decode
from multistride.decode.state import DecodeState
from multistride.engines.eager import EagerStepModel
from multistride.groups import NO_LABEL, PADDING_GROUP
from multistride.model.config import TransformerConfig
from multistride.model.transformer import Transformer
from multistride.train.config import GroupsConfig
from multistride.train.layouts import LayoutDrawer

CONFIG = TransformerConfig(
    vocabulary_size=20,
    hidden_size=16,
    feedforward_size=16,
    heads=2,
    encoder_layers=1,
    decoder_layers=1,
    max_positions=32,
    max_group_size=WIDTH,
)


def test_labels_stand_where_masks_are_read_and_nowhere_else():
    # Guards: a token that is read where it is to be predicted, which would train a copy.
    target = torch.tensor([[5, 6, 7, 2], [8, 2, 0, 0]])
    lengths = torch.tensor([4, 2])
    layouts = MaskedLayouts(LayoutDrawer(GroupsConfig(), CONFIG), WIDTH)
    for seed in range(20):
        drawn = layouts.draw(
            Batch(None, None, target, lengths), torch.Generator().manual_seed(seed)
        )
        asked = drawn.labels != NO_LABEL
        assert bool((drawn.slots.token[asked] == CONFIG.mask_token).all())
        shown = drawn.slots.token[:, :4] != CONFIG.mask_token
        assert bool((drawn.slots.token[:, :4] == target)[shown].all())
        assert bool((drawn.slots.group[asked] != PADDING_GROUP).all())


def test_a_canvas_is_one_group_of_the_given_width():
    slots = canvas(torch.full((2, 5), 3), torch.tensor([5, 2]))
    assert slots.group.tolist() == [[0] * 5, [0, 0] + [PADDING_GROUP] * 3]


def test_rows_do_not_depend_on_their_batch():
    # Guards: masks of one text that another one sees.
    torch.manual_seed(3)
    engine = EagerStepModel(Transformer(CONFIG).eval())
    sources = [[5, 6, 7], [8, 9], [10, 11, 12, 13]]

    def written(rows):
        state = DecodeState(
            [WIDTH] * len(rows), CONFIG.start_token, EndingRule.at(CONFIG.end_token)
        )
        for _ in decode(engine, *source_batch(rows, CONFIG), state, Refiner(engine, 4, WIDTH)):
            pass
        return [each.tokens for each in state.hypotheses]

    assert written(sources) == [tokens for row in sources for tokens in written([row])]
