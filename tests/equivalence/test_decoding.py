"""The fast path says what the slow, obvious one says."""

import pytest
import torch

from multistride.decode.choosing.policy import fixed
from multistride.decode.corpus import decode_corpus, source_batch
from multistride.decode.ending import EndingRule
from multistride.decode.loop import GroupWriter, decode
from multistride.decode.options import DecodeOptions
from multistride.decode.pick import greedy
from multistride.decode.state import DecodeState
from multistride.decode.uncached import UncachedStepModel
from multistride.engines.eager import EagerStepModel
from multistride.groups import NO_LABEL, equal_sizes, teacher_forced

GROUP_SIZES = (1, 2, 3, 4, 8)


def tokens_of(engine, sources, group_size, batch_size=24):
    options = DecodeOptions(
        group_size=group_size, batch_size=batch_size, limit_ratio=1.0, limit_extra=9
    )
    return [hypothesis.tokens for hypothesis in decode_corpus(engine, sources, options)]


@pytest.mark.parametrize("group_size", GROUP_SIZES)
def test_cached_equals_uncached(model, sources, group_size):
    # Guards: stale or misplaced cache entries, wrong masks, rows mixed up when others leave the
    # batch.
    cached = tokens_of(EagerStepModel(model), sources, group_size)
    assert cached == tokens_of(UncachedStepModel(model), sources, group_size)
    assert len({len(tokens) for tokens in cached}) > 3, (
        "the outputs are too alike to prove anything"
    )


@pytest.mark.parametrize("group_size", GROUP_SIZES)
def test_batch_equals_single(model, sources, group_size):
    # Guards: padding that leaks into attention, limits that depend on the neighbours.
    engine = EagerStepModel(model)
    assert tokens_of(engine, sources, group_size) == tokens_of(
        engine, sources, group_size, batch_size=1
    )


@pytest.mark.parametrize("group_size", GROUP_SIZES)
def test_decoding_equals_one_parallel_pass(model, sources, group_size):
    # Guards: training on other slots than decoding uses, above all in the last, partly filled
    # group.
    engine = EagerStepModel(model)
    options = DecodeOptions(group_size=group_size, limit_ratio=1.0, limit_extra=9)
    for source, hypothesis in zip(sources, decode_corpus(engine, sources, options), strict=True):
        written = [token for group in hypothesis.groups for token in group.tokens]
        target, lengths = torch.tensor([written]), torch.tensor([len(written)])
        sizes = equal_sizes(lengths, group_size)
        slots, labels = teacher_forced(target, lengths, sizes, model.config.start_token)
        tensors = source_batch([source], model.config)
        with torch.inference_mode():
            logits = model.project(model(*tensors, slots))
        picked = greedy(model.config)(logits)
        asked = labels != NO_LABEL
        assert picked.tokens[asked].tolist() == written
        torch.testing.assert_close(
            picked.log_probabilities[asked],
            torch.tensor(hypothesis.log_probabilities),
            atol=1e-4,
            rtol=0,
        )


def test_changing_group_sizes_equal_one_parallel_pass(model, sources):
    # Guards: arbitrary borders, where slots are read again or only read; the parallel layout is the
    # definition.
    sequence = [1, 4, 2, 8, 1, 1, 3, 2]
    source = source_batch([sources[0]], model.config)
    state = DecodeState([sum(sequence)], model.config.start_token, EndingRule.at(-1))
    engine = EagerStepModel(model)
    writer = GroupWriter(engine, lambda state: fixed(sequence[state.step])(state))
    for _ in decode(engine, *source, state, writer):
        pass
    written = torch.tensor([state.hypotheses[0].tokens])
    lengths = torch.tensor([written.shape[1]])
    slots, labels = teacher_forced(
        written, lengths, torch.tensor([sequence]), model.config.start_token
    )
    with torch.inference_mode():
        logits = model.project(model(*source, slots))
    assert greedy(model.config)(logits).tokens[labels != NO_LABEL].tolist() == written[0].tolist()


def test_partly_kept_groups_equal_one_parallel_pass(model, sources):
    # Guards: adaptive decoding on other slots than it was trained for.
    kept = [1, 4, 2, 3, 1, 4, 2]
    source = source_batch([sources[0]], model.config)
    state = DecodeState([sum(kept)], model.config.start_token, EndingRule.at(-1))
    proposed, places = [], iter(kept)

    def accept(picked, sizes):
        proposed.append(picked.tokens[0].tolist())
        return torch.tensor([next(places)])

    engine = EagerStepModel(model)
    for _ in decode(engine, *source, state, GroupWriter(engine, fixed(4), accept=accept)):
        pass
    written = torch.tensor([state.hypotheses[0].tokens])
    sizes, lengths = torch.tensor([kept]), torch.tensor([written.shape[1]])
    slots, labels = teacher_forced(
        written, lengths, sizes, model.config.start_token, torch.full_like(sizes, 4)
    )
    with torch.inference_mode():
        picked = greedy(model.config)(model.project(model(*source, slots))).tokens[0]
    for group, tokens in enumerate(proposed):
        border = sum(kept[:group])
        own = (slots.group[0] == group) & (slots.position[0] >= border)
        assert picked[own].tolist() == tokens
        assert int((labels[0][own] != NO_LABEL).sum()) == min(4, written.shape[1] - border)


def test_steps_are_the_length_over_the_group_size(model, sources):
    # Guards: a step too many at the end, or a group that is not filled.
    for group_size in GROUP_SIZES:
        options = DecodeOptions(group_size=group_size, limit_ratio=1.0, limit_extra=9)
        for hypothesis in decode_corpus(EagerStepModel(model), sources, options):
            written = len(hypothesis.log_probabilities)
            assert hypothesis.steps == -(-written // group_size)
