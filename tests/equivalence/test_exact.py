"""Exact mode writes what greedy K=1 writes, whatever the drafts are worth."""

import random
from dataclasses import replace

import pytest

from multistride.decode.batch import Rows, begin_joinable
from multistride.decode.choosing.economy import Economy
from multistride.decode.corpus import decode_corpus, source_batch
from multistride.decode.ending import EndingRule
from multistride.decode.exact import Drafter
from multistride.decode.loop import decode
from multistride.decode.options import DecodeOptions
from multistride.decode.plan import plan
from multistride.decode.state import DecodeState
from multistride.decode.uncached import UncachedStepModel
from multistride.engines.eager import EagerStepModel

GROUP_SIZES = (1, 2, 3, 4, 8)
LIMITS = {"limit_ratio": 1.0, "limit_extra": 9}


def decoded(engine, sources, batch_size=24, **choices):
    options = DecodeOptions.made(batch_size=batch_size, **LIMITS, **choices)
    return decode_corpus(engine, sources, options)


@pytest.fixture(scope="module")
def reference(model, sources):
    return decoded(EagerStepModel(model), sources)


@pytest.mark.parametrize("batch_size", [1, 5, 24])
@pytest.mark.parametrize("group_size", GROUP_SIZES)
@pytest.mark.parametrize("drafts", ["masks", "all-masks"])
def test_exact_equals_autoregressive(model, sources, reference, drafts, group_size, batch_size):
    # Guards: a draft accepted that K=1 would not have written, keys of a wrong draft or of a mask
    # left in the cache.
    choices = {"group_size": group_size, "mode": "exact", "drafts": drafts}
    found = decoded(EagerStepModel(model), sources, batch_size, **choices)
    for one, other in zip(found, reference, strict=True):
        assert (one.tokens, one.ending) == (other.tokens, other.ending)
        assert one.log_probabilities == pytest.approx(other.log_probabilities, abs=1e-4)
        assert one.steps <= max(other.steps, 1)


@pytest.mark.parametrize(
    "choices", [{}, {"min_tokens": 6}, {"no_repeat_ngram": 2, "batch_size": 1}]
)
@pytest.mark.parametrize("drafts", ["text", "both"])
def test_drafts_from_text_change_nothing(model, sources, drafts, choices):
    # Guards: constraints that copies escape, rows of which some copy and some do not.
    engine = EagerStepModel(model)
    expected = decoded(engine, sources, **choices)
    found = decoded(engine, sources, group_size=4, mode="exact", drafts=drafts, **choices)
    assert [(each.tokens, each.ending) for each in found] == [
        (each.tokens, each.ending) for each in expected
    ]


@pytest.mark.parametrize("group_size", [2, 4, 8])
def test_masks_behind_every_draft_leave_no_pass_without_drafts(
    model, sources, group_size, monkeypatch
):
    # Guards: drafts taken from the masks of another slot than the last that was kept.
    engine, choices = EagerStepModel(model), {"group_size": group_size, "mode": "exact"}
    last = decoded(engine, sources, drafts="masks", **choices)
    counts, propose = [], Drafter.propose

    def watched(drafter, state):
        counts.append(drafter.counts.tolist())
        return propose(drafter, state)

    monkeypatch.setattr(Drafter, "propose", watched)
    every = decoded(engine, sources, drafts="all-masks", **choices)
    assert {count for row in counts[1:] for count in row} == {group_size - 1}
    assert sum(each.steps for each in every) < sum(each.steps for each in last)


class Fickle(Economy):
    """Drafts in some passes and not in others, and now and then in no pass of a batch."""

    def __init__(self):
        super().__init__()
        self._random, self.paused, self._batches = random.Random(1), 0, 0

    def drafts(self, rows):
        paused = self._random.random() < 0.5
        self.paused += paused
        return not paused

    def settled(self, rows):
        self._batches += 1
        return self._batches % 4 == 0


def fickle(engine, sources, batch_size, **choices):
    """Return what exact mode writes that drafts by chance."""
    options = DecodeOptions.made(batch_size=batch_size, mode="exact", **LIMITS, **choices)
    economy = Fickle()
    chosen = replace(plan(options, engine.config), economy=economy)
    written = decode_corpus(engine, sources, chosen)  # a batch drafts, or it does not
    joinable = []
    for first in range(0, len(sources), batch_size):  # drafting changes between passes
        source, lengths = source_batch(sources[first : first + batch_size], engine.config)
        limits = [chosen.limit(length) for length in lengths.tolist()]
        rows = Rows(limits, [0] * len(limits))
        batch = begin_joinable(engine, source, lengths, chosen, rows)
        for _ in batch.passes(()):
            pass
        joinable += batch.state.hypotheses
    assert economy.paused > 5
    return written, joinable


@pytest.mark.parametrize("batch_size", [1, 5, 24])
@pytest.mark.parametrize("drafts", ["masks", "all-masks", "text", "both"])
def test_drafting_now_and_then_changes_nothing(model, sources, reference, drafts, batch_size):
    # Guards: masks or drafts that stay in the cache when drafting pauses, copies of a text that
    # went on meanwhile.
    for found in fickle(EagerStepModel(model), sources, batch_size, group_size=4, drafts=drafts):
        for one, other in zip(found, reference, strict=True):
            assert (one.tokens, one.ending) == (other.tokens, other.ending)


@pytest.mark.parametrize("group_size", [2, 4])
def test_cached_equals_uncached(model, sources, group_size):
    # Guards: rows pushed together wrongly, masks that stay visible after their pass.
    choices = {"group_size": group_size, "mode": "exact"}
    cached = decoded(EagerStepModel(model), sources, **choices)
    uncached = decoded(UncachedStepModel(model), sources, **choices)
    assert [each.groups for each in cached] != []
    assert [[group.tokens for group in each.groups] for each in cached] == [
        [group.tokens for group in each.groups] for each in uncached
    ]


class Oracle:
    """Drafts what it is told: all right, all wrong, or right up to a place that changes from row to
    row."""

    def __init__(self, reference, right):
        self.reference, self.right = reference, right

    def __call__(self, model, source, state, group_size):
        outer = self

        class Told(Drafter):
            def renew(self, logits, picked, kept):
                super().renew(logits, picked, kept)
                for place, hypothesis in enumerate(state.running):
                    known = len(hypothesis.log_probabilities) + int(kept[place])
                    full = outer.reference[hypothesis.row]
                    for index in range(group_size - 1):
                        place_in_text = known + index
                        true = full[place_in_text] if place_in_text < len(full) else 7
                        good = outer.right(hypothesis.row, place_in_text)
                        self.tokens[place, index] = true if good else (true + 1) % 40

        engine = EagerStepModel(model)
        for _ in decode(engine, *source, state, Told(engine, len(source[0]), group_size)):
            pass


RIGHT = {
    "all": lambda row, place: True,
    "none": lambda row, place: False,
    "ragged": lambda row, place: (row * 7 + place * 3) % 5 > 1,
}


@pytest.mark.parametrize("group_size", [2, 4, 8])
@pytest.mark.parametrize("right", RIGHT)
def test_any_drafts_lead_to_the_same_text(model, sources, reference, right, group_size):
    # Guards: EOS on any place of a group, rows that accept different numbers of drafts, the limit
    # inside a group.
    config = model.config
    written = [
        [*each.tokens, config.end_token] if each.ending == "end" else list(each.tokens)
        for each in reference
    ]
    tensors = source_batch(sources, config)
    options = DecodeOptions.made(**LIMITS)
    limits = [options.limit(length, config) for length in tensors[1].tolist()]
    state = DecodeState(limits, config.start_token, EndingRule.at(config.end_token))
    Oracle(written, RIGHT[right])(model, tensors, state, group_size)
    assert [each.tokens for each in state.hypotheses] == [each.tokens for each in reference]
    for hypothesis, text in zip(state.hypotheses, written, strict=True):
        if right == "all":  # the first pass has nothing to check and writes one token
            assert hypothesis.steps == 1 + -(-(len(text) - 1) // group_size)
        if right == "none":  # every other pass drafts in vain
            assert hypothesis.steps == len(text)


def test_memory_stays_near_that_of_one_token_a_pass(model, sources):
    # Guards: masks and wrong drafts that pile up in the cache.
    engine = EagerStepModel(model)
    config = model.config
    state = DecodeState([60] * len(sources), config.start_token, EndingRule.at(-1))
    memories = []
    start = engine.start
    engine.start = lambda *arguments: memories.append(start(*arguments)) or memories[-1]
    for _ in decode(
        engine, *source_batch(sources, config), state, Drafter(engine, len(sources), 4)
    ):
        pass
    assert all(len(each.tokens) == 60 for each in state.hypotheses)
    assert memories[0].layers[0]._key.shape[2] <= 128, (
        "64 would hold the text, 128 the text and what is in flight"
    )
    assert memories[0].length <= 60 + 8 + 2 * 4
