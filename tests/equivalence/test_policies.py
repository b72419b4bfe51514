"""Policies and the lookahead layout: what they may change of the text, and what not."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from multistride.decode.choosing.cost import StepCosts
from multistride.decode.choosing.policy import Proposal
from multistride.decode.choosing.strategy import Measured
from multistride.decode.corpus import decode_corpus
from multistride.decode.options import DecodeOptions
from multistride.decode.plan import plan
from multistride.decode.uncached import UncachedStepModel
from multistride.engines.eager import EagerStepModel
from multistride.errors import UsageError
from multistride.model.transformer import Transformer

few = settings(max_examples=12, deadline=None, derandomize=True)
LIMITS = {"limit_ratio": 1.0, "limit_extra": 9}
TABLE = {rows: {size: 3.0 + size * rows for size in (1, 2, 3, 4, 8)} for rows in (1, 8)}


def known():
    layouts = ("sat", "lookahead")
    costs = {
        layout: StepCosts(engine="", layout=layout, threads=1, cpu="", table=TABLE)
        for layout in layouts
    }
    return Measured(costs=costs)


def written(engine, sources, **choices):
    options = DecodeOptions.made(**{**LIMITS, **choices})
    return decode_corpus(engine, sources, plan(options, engine.config, knowledge=known()))


def tokens(engine, sources, **choices):
    return [each.tokens for each in written(engine, sources, **choices)]


@pytest.fixture(scope="module")
def drafter(model):
    """The same weights, said to be trained on the lookahead layout."""
    other = Transformer(model.config.model_copy(update={"lookahead": True})).eval()
    other.load_state_dict(model.state_dict())
    return other


def test_a_constant_policy_is_the_fixed_size(model, sources):
    # Guards: a policy that is asked too often, or whose answer is not what the step writes.
    engine = EagerStepModel(model)
    for size in (1, 3, 4):
        assert tokens(engine, sources, group_size=size, policy="fixed") == tokens(
            engine, sources, group_size=size
        )
    assert tokens(engine, sources, policy="autoregressive") == tokens(engine, sources)


def test_the_lookahead_layout_at_k1_is_k1(drafter, sources):
    # Guards: known tokens that are not read clean.
    engine = EagerStepModel(drafter)
    assert tokens(engine, sources, layout="lookahead") == tokens(engine, sources)


@pytest.mark.parametrize("group_size", [2, 4, 8])
def test_a_threshold_of_one_writes_what_k1_writes(drafter, sources, group_size):
    # Guards: masks that stay in the cache, and a token that depends on what was proposed and
    # dropped before it.
    engine = EagerStepModel(drafter)
    assert tokens(engine, sources, group_size=group_size, mode="adaptive", threshold=1.0) == tokens(
        engine, sources
    )


WAYS = [
    {"group_size": 4, "layout": "lookahead"},
    {"group_size": 8, "mode": "adaptive", "threshold": 0.05},
    {"group_size": 8, "policy": "phase", "threshold": 0.1},
    {"group_size": 8, "policy": "phase", "threshold": 0.1, "layout": "sat"},
    {"group_size": 8, "mode": "adaptive", "policy": "phase", "threshold": 0.1},
    {"group_size": 8, "mode": "adaptive", "threshold": 0.1, "layout": "sat"},
]


@pytest.mark.parametrize("choices", WAYS)
def test_batch_equals_single_and_cached_equals_uncached(drafter, sources, choices):
    # Guards: a size chosen for one row that changes another, padding inside a group, a cache cut at
    # the wrong place.
    together = tokens(EagerStepModel(drafter), sources, **choices)
    assert together == tokens(EagerStepModel(drafter), sources, batch_size=1, **choices)
    assert together == tokens(UncachedStepModel(drafter), sources, **choices)


@few
@given(
    st.floats(0, 1),
    st.integers(1, 8),
    st.sampled_from(
        [("adaptive", None), ("adaptive", "cost-model"), ("adaptive", "phase"), ("fast", "phase")]
    ),
    st.sampled_from(["sat", "lookahead"]),
)
def test_every_step_writes_and_every_sentence_ends(
    drafter, sources, threshold, largest, way, layout
):
    # Guards: a threshold that no token passes (an endless loop), a size outside 1 ... largest,
    # tokens lost.
    mode, policy = way
    choices = {
        "group_size": largest,
        "mode": mode,
        "policy": policy,
        "threshold": threshold,
        "layout": layout,
    }
    for hypothesis in written(EagerStepModel(drafter), sources[:6], **choices):
        assert hypothesis.ending in ("end", "limit")
        assert all(
            1 <= len(group.tokens) <= group.group_size <= largest for group in hypothesis.groups
        )
        assert all(group.reason for group in hypothesis.groups)
        assert len(hypothesis.log_probabilities) <= hypothesis.limit


@pytest.mark.parametrize(
    ("choices", "said"),
    [
        ({"policy": "phase", "mode": "exact"}, "goes with mode fast or adaptive"),
        ({"policy": "phase", "beam": 2}, "all hypotheses of beam 2 are in one step"),
        ({"policy": "confidence"}, "goes with mode adaptive"),
        ({"policy": "cost-model"}, "goes with mode adaptive"),
        ({"policy": "fixed", "mode": "adaptive"}, "goes with mode fast"),
        ({"policy": "autoregressive", "group_size": 4}, "group size 4 was asked for"),
        ({"policy": "phase", "temperature": 0.5}, "depend on the rest of the batch"),
        ({"layout": "sat", "mode": "exact"}, "mode exact has its own"),
        ({"layout": "lookahead", "beam": 3}, "beam 3 has its own"),
    ],
)
def test_what_does_not_go_together_is_refused(model, choices, said):
    # Guards: an option that is taken and ignored.
    with pytest.raises(UsageError, match=said):
        DecodeOptions.made(**choices).checked(model.config)


def test_a_cost_model_without_costs_is_refused(drafter, sources):
    # Guards: a policy that quietly becomes another one.
    options = DecodeOptions.made(group_size=4, mode="adaptive", policy="cost-model")
    with pytest.raises(UsageError, match="none were measured"):
        decode_corpus(EagerStepModel(drafter), sources, options)


def by_limit(state):
    """Groups of 1 to 4 tokens: what a text is given depends on its own limit alone."""
    sizes = [1 + hypothesis.limit % 4 for hypothesis in state.running]
    return Proposal(torch.tensor(sizes), ("",) * len(sizes))


def test_what_is_sampled_under_an_own_policy_depends_on_no_neighbour(model, sources):
    # Guards: chances counted by the widest group of a batch.
    engine = EagerStepModel(model)
    options = DecodeOptions(group_size=4, temperature=1.0, seed=3, **LIMITS)
    own = plan(options, engine.config).proposing(by_limit)
    together = [each.tokens for each in decode_corpus(engine, sources, own)]
    alone = [decode_corpus(engine, [source], own)[0].tokens for source in sources]
    assert together == alone


def test_a_group_beam_takes_no_own_policy(model):
    # Guards: groups compared by tokens behind their end, where a batch has larger ones.
    config = model.config.model_copy(update={"markov_rank": 4})
    searched = plan(DecodeOptions(group_size=4, group_beam=3), config)
    with pytest.raises(UsageError, match="a policy was given with group_beam 3, which compares"):
        searched.proposing(by_limit)


def test_another_group_size_has_the_policy_of_the_options_again(model):
    # Guards: whole groups of one size taken for those of a function of one's own.
    chosen = plan(DecodeOptions(group_size=4), model.config)
    again = chosen.proposing(by_limit).of_size(2)
    assert not chosen.proposing(by_limit).whole_groups
    assert again.whole_groups
