"""Sampling against the exact distribution, and against loops over single tokens."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from multistride.decode.chances import Chances
from multistride.decode.ending import EndingRule
from multistride.decode.markov import distribution
from multistride.decode.options import DecodeOptions
from multistride.decode.sample import draw, restricted, sampler
from multistride.decode.state import DecodeState
from multistride.groups import NO_LABEL
from multistride.model.config import TransformerConfig
from multistride.model.markov import MarkovHead

CONFIG = TransformerConfig(vocabulary_size=9, markov_rank=3)
quick = settings(max_examples=60, deadline=None, derandomize=True)


def head_of(seed):
    torch.manual_seed(seed)
    head = MarkovHead(CONFIG)
    torch.nn.init.normal_(head.following, std=1.0)
    return head.requires_grad_(False)


@pytest.mark.parametrize(
    "choices", [{"temperature": 1.0}, {"temperature": 0.7, "top_p": 0.8}], ids=str
)
@pytest.mark.parametrize("with_head", [False, True])
def test_what_is_drawn_has_the_distribution_it_should_have(choices, with_head):
    # Guards: tokens of a group drawn without regard to the one before, a temperature or a cut
    # applied twice.
    head = head_of(1) if with_head else None
    options = DecodeOptions(**choices)
    logits = torch.randn(2, CONFIG.vocabulary_size, generator=torch.Generator().manual_seed(2))
    rows = 8000
    state = DecodeState([2] * rows, CONFIG.start_token, EndingRule.at(CONFIG.end_token))
    pick = sampler(CONFIG, head, options, Chances(range(rows), state))
    tokens = pick(logits.expand(rows, 2, -1)).tokens
    log_probabilities = distribution(CONFIG, head)
    none = torch.tensor([NO_LABEL])
    first = restricted(log_probabilities(logits[:1], none), options)[0].exp()
    statistic, cells = 0.0, 0
    for one, other in itertools.product(range(CONFIG.vocabulary_size), repeat=2):
        second = restricted(log_probabilities(logits[1:], torch.tensor([one])), options)[0].exp()
        expected = rows * float(first[one] * second[other])
        found = int(((tokens[:, 0] == one) & (tokens[:, 1] == other)).sum())
        if expected == 0:
            assert found == 0
            continue
        statistic += (found - expected) ** 2 / max(expected, 1e-9)
        cells += 1
    freedom = cells - 1
    # The Wilson-Hilferty bound that a chi-square variable exceeds once in ten thousand times.
    bound = freedom * (1 - 2 / (9 * freedom) + 3.72 * math.sqrt(2 / (9 * freedom))) ** 3
    assert statistic < bound


@quick
@given(
    st.lists(st.integers(-40, 40), min_size=7, max_size=7, unique=True),
    st.floats(0.2, 3),
    st.integers(0, 9),
    st.floats(0.05, 1),
    st.floats(0, 1),
)
def test_restricted_against_plain_lists(scores, temperature, top_k, top_p, min_p):
    # Guards: a cut that keeps one token too many or too few, or nothing.
    own = (torch.tensor([scores]) / 8).log_softmax(-1)
    options = DecodeOptions(temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p)
    found = restricted(own, options)[0].exp()
    assert float(found.sum()) == pytest.approx(1, abs=1e-4)
    weights = (own[0] / temperature).softmax(-1).tolist()
    kept = sorted(range(7), key=lambda token: -weights[token])[: top_k or 7]
    total = sum(weights[token] for token in kept)
    nucleus, mass = [], 0.0
    for token in kept:
        if nucleus and mass >= top_p * total:
            break
        nucleus.append(token)
        mass += weights[token]
    likely = [token for token in nucleus if weights[token] >= min_p * weights[nucleus[0]]]
    borders = [
        abs(sum(weights[t] for t in kept[:n]) / total - top_p) for n in range(1, len(kept) + 1)
    ]
    ratios = [abs(weights[token] / weights[nucleus[0]] - min_p) for token in nucleus]
    if (
        min(*borders, 1) > 1e-4 and min(*ratios, 1) > 1e-4
    ):  # rounding may decide on the border itself
        assert {token for token in range(7) if found[token] > 0} == set(likely or nucleus[:1])


@pytest.mark.parametrize("temperature", [1e-3, 1e-20, 1e-40, 1e-300])
def test_the_coldest_draw_is_the_most_probable_token(temperature):
    # Guards: probabilities that are no numbers, of which the last token is drawn.
    own = torch.tensor([[-0.5, -2.0, -float("inf")], [-3.0, -0.1, -5.0]])
    found = restricted(own, DecodeOptions(temperature=temperature, top_p=0.9, min_p=0.1))
    assert found.exp().tolist() == [[1, 0, 0], [0, 1, 0]]
    assert draw(found, torch.tensor([0.999, 0.001])).tolist() == [0, 1]


def test_chances_lie_end_to_end():
    # Guards: the last token drawn for a chance near one though it cannot be, a border given to the
    # wrong side.
    values = torch.tensor([[0.25, 0.5, 0.25, 0.0]]).log().expand(5, -1)
    chances = torch.tensor([0.0, 0.2499, 0.25, 0.7499, 1 - 2**-53], dtype=torch.float64)
    assert draw(values, chances).tolist() == [0, 0, 1, 1, 2]
