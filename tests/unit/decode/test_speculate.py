"""Speculative sampling against the exact distribution of K=1 sampling, and on every ragged
batch."""

import itertools
import math

import pytest
import torch

from multistride.decode.constraints import constraints_of
from multistride.decode.corpus import decode_corpus
from multistride.decode.ending import EndingRule
from multistride.decode.loop import decode
from multistride.decode.options import DecodeOptions
from multistride.decode.sample import restricted
from multistride.decode.score import score_pairs
from multistride.decode.speculate import SpeculativeDrafter
from multistride.decode.state import DecodeState
from multistride.engines.eager import EagerStepModel
from multistride.groups import Slots
from multistride.model.config import TransformerConfig
from multistride.model.transformer import Transformer

SAMPLES, LIMIT = 5000, 4
WORDS, END = (4, 5, 6), 2
SOURCE = [4, 6, 5]


def tiny(markov_rank=0, vocabulary_size=7):
    """A random model whose drafts are neither all right nor all wrong."""
    torch.manual_seed(6)
    sizes = {
        "hidden_size": 16,
        "feedforward_size": 16,
        "heads": 2,
        "encoder_layers": 1,
        "decoder_layers": 1,
    }
    config = TransformerConfig(
        vocabulary_size=vocabulary_size,
        markov_rank=markov_rank,
        max_positions=32,
        max_group_size=4,
        group_sizes=(1, 2, 3, 4),
        **sizes,
    )
    model = Transformer(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.7)
        model.target_embedding.weight.mul_(0.3)
        model.reach.beyond_one.weight[1:].normal_(std=0.5)
        if model.markov is not None:
            model.markov.following.normal_(std=0.7)
    return model


def every_output():
    for length in range(LIMIT):
        yield from ((*words, END) for words in itertools.product(WORDS, repeat=length))
    yield from itertools.product(WORDS, repeat=LIMIT)


def exact_probabilities(model, options):
    """The probability of every output when K=1 samples token by token, from passes over whole
    prefixes."""
    engine, rules = EagerStepModel(model), constraints_of(options, model.config)
    source = torch.tensor([[*SOURCE, END]])

    def following(tokens):
        memory = engine.start(source, torch.tensor([len(SOURCE) + 1]))
        for place in range(len(tokens) + 1):
            read = torch.tensor([[tokens[place - 1] if place else model.config.start_token]])
            position, one = torch.tensor([[place]]), torch.ones(1, 1, dtype=torch.long)
            logits = engine.step(Slots(read, position, one, position), memory)
        own = (
            logits[:, 0]
            .clone()
            .index_fill(-1, torch.tensor([0, 1, 3]), float("-inf"))
            .log_softmax(-1)
        )
        allowed = own if rules.permitted is None else rules.permitted(own, [tokens], [0])
        return restricted(allowed, options)[0].exp().tolist()

    seen = {}
    probabilities = {}
    for output in every_output():
        total = 1.0
        for place, token in enumerate(output):
            begun = output[:place]
            if begun not in seen:
                seen[begun] = following(list(begun))
            total *= seen[begun][token]
        probabilities[output] = total
    assert sum(probabilities.values()) == pytest.approx(1, abs=1e-4)
    return probabilities


def chi_square_is_plausible(counts, expected):
    """Whether the counts are those of the probabilities; rare outputs, expected less than five
    times, as one."""
    often = [output for output, probability in expected.items() if SAMPLES * probability >= 5]
    cells = [(counts[output], SAMPLES * expected[output]) for output in often]
    rest = SAMPLES - sum(wanted for _, wanted in cells)
    if rest > 1:
        cells.append((SAMPLES - sum(found for found, _ in cells), rest))
    freedom = len(cells) - 1
    assert freedom > 3, "too few outputs to prove anything"
    statistic = sum((found - wanted) ** 2 / wanted for found, wanted in cells)
    # The Wilson-Hilferty bound that a chi-square variable exceeds once in ten thousand times.
    return statistic < freedom * (1 - 2 / (9 * freedom) + 3.72 * math.sqrt(2 / (9 * freedom))) ** 3


@pytest.mark.parametrize(
    ("group_size", "markov_rank", "choices"),
    [
        (2, 0, {"temperature": 1.0}),
        (3, 0, {"temperature": 1.0}),
        (4, 2, {"temperature": 1.0}),
        (3, 2, {"temperature": 0.6, "top_k": 3}),
        (3, 0, {"temperature": 1.5, "top_p": 0.7}),
        (3, 2, {"temperature": 1.0, "min_p": 0.3}),
        (3, 2, {"temperature": 1.0, "drafts": "all-masks"}),
        (4, 0, {"temperature": 0.8, "top_k": 3, "drafts": "all-masks"}),
        (3, 0, {"temperature": 1.0, "min_tokens": 2, "no_repeat_ngram": 1}),
        (1, 0, {"temperature": 1.0}),
    ],
    ids=str,
)
def test_what_is_written_has_the_distribution_of_sampling_at_k1(group_size, markov_rank, choices):
    # Guards: a draft kept too often, a residual that is not p - q, cuts on one side only, EOS
    # inside a group.
    model = tiny(markov_rank)
    options = DecodeOptions.made(group_size=group_size, mode="exact", max_tokens=LIMIT, **choices)
    expected = exact_probabilities(model, options)
    engine, state = (
        EagerStepModel(model),
        DecodeState([LIMIT] * SAMPLES, model.config.start_token, EndingRule.at(END)),
    )
    permitted = constraints_of(options, model.config).permitted
    drafter = SpeculativeDrafter(engine, options, state, list(range(SAMPLES)), permitted)
    source = torch.tensor([[*SOURCE, END]]).expand(SAMPLES, -1)
    lengths = torch.full((SAMPLES,), len(SOURCE) + 1)
    for _ in decode(engine, source, lengths, state, drafter):
        pass
    counts = dict.fromkeys(expected, 0)
    for hypothesis in state.hypotheses:
        counts[tuple(token for group in hypothesis.groups for token in group.tokens)] += 1
    assert not any(counts[output] for output, probability in expected.items() if probability == 0)
    assert chi_square_is_plausible(counts, expected)
    if group_size > 1:
        kept = [len(group.tokens) for hypothesis in state.hypotheses for group in hypothesis.groups]
        assert max(kept) > 1, "no draft ever stood, so nothing was shown"


@pytest.mark.parametrize("drafts", ["masks", "all-masks"])
@pytest.mark.parametrize("markov_rank", [0, 2])
def test_neighbours_change_no_sample_and_scores_are_those_of_k1(markov_rank, drafts):
    # Guards: chances shared between rows, a row's drafts left with another, log-probabilities of
    # the drafts.
    model = tiny(markov_rank, vocabulary_size=20)
    sources = [[4 + (row * 7 + place) % 16 for place in range(1 + row % 5)] for row in range(9)]
    choices = {"group_size": 4, "mode": "exact", "drafts": drafts, "temperature": 1.0}
    options = DecodeOptions.made(limit_extra=6, seed=5, **choices)
    together = decode_corpus(EagerStepModel(model), sources, options)
    alone = decode_corpus(
        EagerStepModel(model), sources, options.model_copy(update={"batch_size": 1})
    )
    assert [each.tokens for each in together] == [each.tokens for each in alone]
    scores = score_pairs(
        model, [(source, each.tokens) for source, each in zip(sources, together, strict=True)]
    )
    for each, found in zip(together, scores, strict=True):
        assert each.log_probabilities == pytest.approx(
            found[: len(each.log_probabilities)], abs=2e-4
        )
    other = decode_corpus(EagerStepModel(model), sources, options.model_copy(update={"seed": 6}))
    assert [each.tokens for each in other] != [each.tokens for each in together]


def test_without_chance_it_is_exact_mode():
    # Guards: drafts that are right and yet drawn anew.
    model = tiny(2, vocabulary_size=20)
    sources = [[4 + row, 9] for row in range(6)]
    exact = DecodeOptions.made(group_size=4, mode="exact")
    certain = DecodeOptions.made(group_size=4, mode="exact", temperature=1.0, top_k=1)
    one = decode_corpus(EagerStepModel(model), sources, exact)
    other = decode_corpus(EagerStepModel(model), sources, certain)
    assert [[group.tokens for group in each.groups] for each in one] == [
        [group.tokens for group in each.groups] for each in other
    ]
