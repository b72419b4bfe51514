"""Attention by distance: sliding windows and relative positions, cached, in batches, in groups."""

import pytest
import torch

from multistride.decode.corpus import decode_corpus
from multistride.decode.options import DecodeOptions
from multistride.decode.uncached import UncachedStepModel
from multistride.engines.eager import EagerStepModel
from multistride.groups import PADDING_GROUP, equal_sizes, lookahead, teacher_forced, visibility
from multistride.model.config import AdapterConfig, TransformerConfig
from multistride.model.distance import distances, sights
from multistride.model.transformer import Transformer

SIZES = {
    "vocabulary_size": 40,
    "hidden_size": 32,
    "feedforward_size": 48,
    "heads": 4,
    "max_positions": 48,
    "group_sizes": (1, 3),
    "decoder_layers": 3,
}
WINDOWED = {
    "encoder_layers": 0,
    "positions": "rotary",
    "attention_window": 4,
    "window_layers": (0, 2),
    "window_rotary_base": 100.0,
}
KINDS = {
    "window": {**WINDOWED, "norm": "sandwich", "attention_cap": 5.0, "output_cap": 9.0},
    "window-adapted": {**WINDOWED, "adapter": AdapterConfig(rank=4, layers=2), "lookahead": True},
    "relative": {
        "encoder_layers": 2,
        "positions": "relative",
        "relative_buckets": 8,
        "relative_furthest": 20,
        "norm": "output",
    },
}
WAYS = {
    "greedy": {},
    "group": {"group_size": 3},
    "adaptive": {"group_size": 3, "mode": "adaptive", "threshold": 0.02},
    "exact": {"group_size": 3, "mode": "exact"},
    "beam": {"group_size": 3, "beam": 2},
}


@pytest.fixture(scope="module", params=KINDS)
def model(request):
    """A small random model whose outputs vary and do use distances."""
    torch.manual_seed(4)
    transformer = Transformer(TransformerConfig(**SIZES, **KINDS[request.param])).eval()
    with torch.no_grad():
        for parameter in transformer.parameters():
            parameter.mul_(1.6).add_(0.1 * torch.randn_like(parameter))
        transformer.reach.beyond_one.weight[0] = 0
        transformer.position.further_start.weight[0] = 0
    return transformer


@pytest.fixture(scope="module")
def sources():
    generator = torch.Generator().manual_seed(6)
    lengths = [1, 2, *torch.randint(1, 20, (8,), generator=generator).tolist()]
    return [torch.randint(5, 40, (length,), generator=generator).tolist() for length in lengths]


def written(engine, sources, batch_size=16, **choices):
    options = DecodeOptions.made(batch_size=batch_size, max_tokens=14, **choices)
    return [each.tokens for each in decode_corpus(engine, sources, options)]


@pytest.mark.parametrize("way", WAYS)
def test_cached_equals_uncached_and_alone(model, sources, way):
    # Guards: positions that the cache forgets, or gives to other rows, when slots are dropped.
    if model.config.adapter is not None and way not in ("greedy", "exact"):
        pytest.skip("adapters only draft")
    cached = written(EagerStepModel(model), sources, **WAYS[way])
    if model.config.adapter is None:  # the oracle has no way to draft from several slots
        assert cached == written(UncachedStepModel(model), sources, **WAYS[way])
    assert cached == written(EagerStepModel(model), sources, batch_size=1, **WAYS[way])
    assert len(set(map(tuple, cached))) > 5, "the outputs are too alike to prove anything"


def test_exact_mode_writes_what_k1_writes(model, sources):
    engine = EagerStepModel(model)
    assert written(engine, sources, group_size=3, mode="exact") == written(engine, sources)


@pytest.mark.parametrize("layout", ["k1", "k3", "lookahead"])
def test_a_window_is_counted_in_positions(layout):
    """Brute force over all pairs of slots: a clean slot sees W positions, a group sees its own."""
    config = TransformerConfig(**SIZES, **WINDOWED)
    target, lengths = torch.arange(9).expand(2, -1), torch.tensor([9, 6])
    if layout == "lookahead":
        slots, _ = lookahead(target, lengths, torch.tensor([7, 4]), 3, 1, 3)
    else:
        slots, _ = teacher_forced(target, lengths, equal_sizes(lengths, int(layout[1])), 1)
    mask = visibility(slots.group, slots.group)[:, None]
    narrow, wide, _ = sights(config, mask, distances(slots.position, None), None)
    assert wide is mask
    for row in range(2):
        group, position = slots.group[row].tolist(), slots.position[row].tolist()
        for seer in range(len(group)):
            if group[seer] == PADDING_GROUP:
                assert bool(narrow[row, 0, seer, seer])
                continue
            for seen in range(len(group)):
                near = position[seer] - position[seen] < 4
                assert bool(narrow[row, 0, seer, seen]) == (group[seen] <= group[seer] and near)


def test_a_window_that_hides_nothing_costs_no_mask():
    config = TransformerConfig(**SIZES, **WINDOWED)
    position = torch.tensor([[3]])
    assert sights(config, None, position[:, :, None] - torch.arange(4), None) == [None] * 3
    hiding = sights(config, None, position[:, :, None] + 1 - torch.arange(5), None)
    assert hiding[0] is not None
    assert hiding[1] is None
