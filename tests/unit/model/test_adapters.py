"""Adapters draft and change nothing else."""

import pytest
import torch
from pydantic import ValidationError

from multistride.decode.corpus import decode_corpus
from multistride.decode.options import DecodeOptions
from multistride.engines.eager import EagerStepModel
from multistride.errors import UsageError
from multistride.groups import (
    PADDING_GROUP,
    Drafts,
    Slots,
    draft_everywhere,
    draft_masks,
    draft_slots,
    drafting_visibility,
    equal_sizes,
    prompt_slots,
    teacher_forced,
)
from multistride.model.adapters import AdaptedLinear, DraftGate, freeze_all_but_drafting
from multistride.model.config import AdapterConfig, TransformerConfig
from multistride.model.transformer import Transformer

SHAPE = {
    "vocabulary_size": 40,
    "hidden_size": 32,
    "feedforward_size": 48,
    "heads": 4,
    "encoder_layers": 0,
    "decoder_layers": 3,
    "positions": "rotary",
    "norm_kind": "rms",
    "activation": "silu",
    "gated_feedforward": True,
    "key_value_heads": 2,
    "max_positions": 64,
    "dropout": 0.0,
}


def pair(layers, **changes):
    """A random model, and the same with adapters that are not zero."""
    torch.manual_seed(2)
    plain = Transformer(TransformerConfig(**SHAPE, **changes)).eval()
    with torch.no_grad():
        for parameter in plain.parameters():
            parameter.mul_(1.6)
    config = TransformerConfig(
        **SHAPE,
        **changes,
        group_sizes=(1, 2, 4),
        adapter=AdapterConfig(rank=4, alpha=8, layers=layers),
    )
    adapted = Transformer(config).eval()
    missing = adapted.load_state_dict(plain.state_dict(), strict=False).missing_keys
    assert all(name.endswith((".down", ".up")) for name in missing)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if name.endswith(".up"):
                parameter.normal_(std=0.3)
        adapted.reach.beyond_one.weight[1:].normal_(std=0.5)
    return plain, adapted


def prompts():
    generator = torch.Generator().manual_seed(8)
    return [
        torch.randint(5, 40, (length,), generator=generator).tolist() for length in (1, 6, 2, 11, 3)
    ]


@pytest.mark.parametrize("layers", [1, 2, 3])
@pytest.mark.parametrize("start_symbol", [True, False])
def test_k1_is_the_original_bit_for_bit(layers, start_symbol):
    # Guards: an addition, a reach vector or a changed order of operations that touches the
    # original's own text.
    plain, adapted = pair(layers, start_symbol=start_symbol)
    target = torch.randint(5, 40, (3, 20), generator=torch.Generator().manual_seed(1))
    lengths = torch.tensor([20, 11, 4])
    slots, _ = teacher_forced(target, lengths, equal_sizes(lengths, 1), 1)
    with torch.inference_mode():
        before, after = (model.project(model(None, None, slots)) for model in (plain, adapted))
    assert torch.equal(before, after)
    options = DecodeOptions.made(max_tokens=12)
    one, other = (
        decode_corpus(EagerStepModel(model), prompts(), options) for model in (plain, adapted)
    )
    assert [each.log_probabilities for each in one] == [each.log_probabilities for each in other]


@pytest.mark.parametrize("layers", [1, 2, 3])
@pytest.mark.parametrize("start_symbol", [True, False])
@pytest.mark.parametrize("batch_size", [1, 5])
def test_exact_mode_writes_what_the_original_writes(layers, start_symbol, batch_size):
    # Guards: masks whose keys a later pass still sees, layers whose caches drift apart.
    plain, adapted = pair(layers, start_symbol=start_symbol)
    expected = decode_corpus(EagerStepModel(plain), prompts(), DecodeOptions.made(max_tokens=20))
    options = DecodeOptions.made(max_tokens=20, group_size=4, mode="exact", batch_size=batch_size)
    found = decode_corpus(EagerStepModel(adapted), prompts(), options)
    assert [each.tokens for each in found] == [each.tokens for each in expected]


def test_drawing_at_hardly_any_temperature_is_greedy():
    # Guards: drafts drawn from the masks of a slot that did not stand.
    plain, adapted = pair(2, markov_rank=4)
    expected = decode_corpus(EagerStepModel(plain), prompts(), DecodeOptions.made(max_tokens=20))
    options = DecodeOptions.made(max_tokens=20, group_size=4, mode="exact", temperature=1e-4)
    found = decode_corpus(EagerStepModel(adapted), prompts(), options)
    assert [each.tokens for each in found] == [each.tokens for each in expected]
    assert sum(each.steps for each in found) <= sum(each.steps for each in expected)


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_drafts_are_those_that_were_trained(layers):
    # Guards: decoding that lets masks begin elsewhere, see more or less, or use other weights than
    # training does.
    _, adapted = pair(layers)
    target = torch.randint(5, 40, (2, 9), generator=torch.Generator().manual_seed(3))
    lengths, anchors = torch.tensor([9, 9]), torch.tensor([[2, 5, 8], [0, 4, 7]])
    slots, _ = teacher_forced(target, lengths, equal_sizes(lengths, 1), 1)
    behind, _ = draft_masks(target, lengths, anchors, 4, 3)
    with torch.inference_mode():
        together = adapted(None, None, slots, behind)[:, slots.token.shape[1] :]
        for row in range(2):
            for place, anchor in enumerate(anchors[row].tolist()):
                engine = EagerStepModel(adapted)
                memory = engine.start(None, None)
                nothing = Drafts(torch.zeros(1, 3, dtype=torch.long), torch.tensor([0]))
                if anchor:
                    border = torch.tensor([anchor])
                    first = teacher_forced(
                        target[row : row + 1], border, equal_sizes(border, 1), 1
                    )[0]
                    engine.step(first, memory)
                step = draft_slots(target[row : row + 1], torch.tensor([anchor]), nothing, 4, 1, 3)
                logits = engine.step(step, memory)
                expected = adapted.project(together[row, 3 * place : 3 * place + 3])
                torch.testing.assert_close(logits[0, -3:], expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("layers", [1, 3])
def test_every_slot_is_drafted_from_alike(layers):
    # Guards: masks that see those of another slot, later drafts, or the wrong slot's state; rows
    # padded on the left.
    _, adapted = pair(layers)
    known = torch.randint(5, 40, (2, 12), generator=torch.Generator().manual_seed(3))
    border, counts = torch.tensor([5, 7]), torch.tensor([3, 1])
    drafted = torch.stack([known[row, start : start + 3] for row, start in enumerate((5, 7))])
    with torch.inference_mode():
        for row in range(2):
            engine = EagerStepModel(adapted)
            read = slice(row, row + 1)
            memories = [engine.start(None, None) for _ in range(2)]
            for memory in memories:
                engine.step(first_slots(known[read], int(border[row]) - 1), memory)
            special = 3, 1, 3
            together = draft_everywhere(
                known[read], border[read], Drafts(drafted[read], counts[read]), *special
            )
            logits = engine.step(together, memories[0])
            count = int(counts[row])
            for place in range(count + 1):
                alone = draft_slots(
                    known[read],
                    border[read],
                    Drafts(drafted[read], torch.tensor([place])),
                    *special,
                )
                expected = engine.step(narrowed(alone), memories[1])
                masks = logits[:, count + 1 + 2 * place : count + 3 + 2 * place]
                torch.testing.assert_close(masks, expected[:, -2:], atol=1e-4, rtol=1e-4)
                memories[1].truncate(torch.tensor([2]))
    both = draft_everywhere(known, border, Drafts(drafted, counts), 3, 1, 3)
    assert both.group[1].tolist().count(PADDING_GROUP) == 2 * 3, (
        "two clean slots less, each with two masks"
    )
    visible = drafting_visibility(both.group, both.group)[1]
    real = both.group[1] != PADDING_GROUP
    assert not visible[real][:, ~real].any()


def first_slots(known, count):
    """The autoregressive slots that read the first tokens."""
    lengths = torch.tensor([count + 1])
    return prompt_slots(known, lengths, 1)


def narrowed(slots):
    """The last clean slot and its masks: what one pass of the old layout reads new after
    another."""
    return Slots(*(field[:, -3:] for field in slots))


def test_only_drafting_is_trained():
    # Guards: a weight of the original that moves, or an adapter that does not.
    _, adapted = pair(2, markov_rank=4)
    freeze_all_but_drafting(adapted)
    trained = {name for name, parameter in adapted.named_parameters() if parameter.requires_grad}
    assert {name.split(".")[0] for name in trained} == {"decoder", "reach", "markov"}
    assert all(name.endswith((".down", ".up")) for name in trained if name.startswith("decoder"))
    target, lengths = torch.randint(5, 40, (2, 9)), torch.tensor([9, 9])
    slots, _ = teacher_forced(target, lengths, equal_sizes(lengths, 1), 1)
    behind, _ = draft_masks(target, lengths, torch.tensor([[2, 5], [1, 4]]), 3, 3)
    adapted(None, None, slots, behind)[:, slots.token.shape[1] :].sum().backward()
    for name, parameter in adapted.named_parameters():
        reached = parameter.grad is not None and bool(parameter.grad.any())
        assert reached == (name in trained and not name.startswith("markov")), name


def test_the_gate_opens_for_the_last_columns_only():
    layer = AdaptedLinear(
        torch.nn.Linear(4, 6), AdapterConfig(rank=2, alpha=1, layers=1), DraftGate(2)
    )
    with torch.no_grad():
        layer.up.normal_()
    rows = torch.randn(3, 5, 4)
    added = layer(rows) - torch.nn.functional.linear(rows, layer.weight, layer.bias)
    assert added.abs().sum(2).bool().tolist() == [[False] * 3 + [True] * 2] * 3


def test_what_adapters_cannot_do_is_refused():
    _, adapted = pair(1)
    with pytest.raises(UsageError, match="only write drafts: choose mode exact"):
        DecodeOptions.made(group_size=2).checked(adapted.config)
    DecodeOptions.made(group_size=1).checked(adapted.config)
    with pytest.raises(
        ValidationError, match=r"adapter.layers is 9; adapters are for causal models"
    ):
        TransformerConfig(**SHAPE, adapter=AdapterConfig(layers=9))
