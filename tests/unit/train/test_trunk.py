"""What frozen layers make of a window is computed once."""

import pytest
import torch

from multistride.groups import draft_masks, equal_sizes, teacher_forced
from multistride.model.config import AdapterConfig, TransformerConfig
from multistride.model.transformer import Transformer
from multistride.train.trunk import TrunkStates

SHAPE = {
    "vocabulary_size": 50,
    "hidden_size": 16,
    "feedforward_size": 24,
    "heads": 2,
    "encoder_layers": 0,
    "decoder_layers": 3,
    "positions": "rotary",
    "max_positions": 32,
    "dropout": 0.0,
    "adapter": AdapterConfig(rank=4, layers=1),
}


def batch(rows):
    target = torch.arange(48).reshape(4, 12)[rows]
    lengths = torch.tensor([12, 7, 9, 12])[rows]
    return target, lengths, teacher_forced(target, lengths, equal_sizes(lengths, 1), 1)[0]


def counting(model):
    """The windows that are computed, by what `batch` made their last tokens."""
    calls = []
    compute = model.before_adapters
    model.before_adapters = lambda slots: (
        calls.extend((slots.token[:, -1] // 12).tolist()) or compute(slots)
    )
    return calls


def test_states_are_kept_by_window():
    # Guards: states of other windows after another shuffle, those of padding, a batch computed
    # again.
    torch.manual_seed(1)
    model = Transformer(TransformerConfig(**SHAPE)).eval()
    calls, met = counting(model), []
    states = TrunkStates(model, 1.0)
    for rows in ([0, 1], [2, 3], [3, 0], [1, 2]):
        target, lengths, slots = batch(rows)
        found = states.of(rows, lengths, slots)
        met.append(list(calls))
        calls.clear()
        expected = Transformer.before_adapters(model, slots)
        for row, length in enumerate(lengths.tolist()):
            torch.testing.assert_close(
                found[row, :length], expected[row, :length], atol=0.02, rtol=0.02
            )
        behind, _ = draft_masks(target, lengths, torch.tensor([[1, 4], [2, 3]]), 3, 3)
        given, computed = (model(None, None, slots, behind, entering) for entering in (found, None))
        torch.testing.assert_close(
            given[:, slots.token.shape[1] :],
            computed[:, slots.token.shape[1] :],
            atol=0.05,
            rtol=0.05,
        )
        calls.clear()
    assert met == [[0, 1], [2, 3], [], []]


def test_where_there_is_no_room_they_are_computed_anew():
    torch.manual_seed(1)
    model = Transformer(TransformerConfig(**SHAPE)).eval()
    calls = counting(model)
    room_for_one = 12 * 16 * 2 / 2**20
    states = TrunkStates(model, room_for_one)
    for rows in ([0, 1], [0, 1], [0], [1]):
        _, lengths, slots = batch(rows)
        states.of(rows, lengths, slots)
    assert calls == [0, 1, 1, 1], "the first window is kept, the second is not"


@pytest.mark.parametrize(
    ("megabytes", "half", "dropout"), [(1.0, False, 0.1), (0.0, False, 0.0), (0.0, True, 0.0)]
)
def test_what_comes_of_a_window_depends_on_nothing_else(megabytes, half, dropout):
    # Guards: rounding that differs with the batch a window is met in, and dropout: a resumed run
    # has met other ones.
    torch.manual_seed(1)
    sizes = {"hidden_size": 576, "feedforward_size": 1536, "heads": 8, "dropout": dropout}
    model = Transformer(TransformerConfig(**{**SHAPE, **sizes})).train()
    states, found = TrunkStates(model, megabytes), {}
    with torch.autocast("cpu", torch.bfloat16, enabled=half):
        for rows in ([0, 1, 2, 3], [0], [3, 1], [1, 2]):
            _, lengths, slots = batch(rows)
            for row, length, state in zip(
                rows, lengths.tolist(), states.of(rows, lengths, slots), strict=True
            ):
                assert state[:length].equal(found.setdefault(row, state[:length]))
                assert not state[length:].any()
    assert model.training
