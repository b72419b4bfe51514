"""Speculative sampling against the exact distribution of K=1 sampling, and on every ragged
batch."""

import itertools
import math

import numpy as np
import pytest
import torch

from multistride.decode.choosing.strategy import Measured
from multistride.decode.constraints import constraints_of
from multistride.decode.copying import Copied, SamplingPhraseDrafter
from multistride.decode.corpus import decode_corpus
from multistride.decode.ending import EndingRule
from multistride.decode.loop import decode
from multistride.decode.options import DecodeOptions
from multistride.decode.phrases import PhraseTable
from multistride.decode.plan import plan
from multistride.decode.sample import restricted
from multistride.decode.score import score_pairs
from multistride.decode.speculate import SpeculativeDrafter
from multistride.decode.state import DecodeState
from multistride.engines.eager import EagerStepModel
from multistride.errors import UsageError
from multistride.groups import Slots
from multistride.model.config import TransformerConfig
from multistride.model.transformer import Transformer

SAMPLES, LIMIT = 5000, 4
WORDS, END = (4, 5, 6), 2
SOURCE = [4, 6, 5]
TABLE = PhraseTable(np.array([[4, 5], [5, 6], [6, END]], np.int32))


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
        (3, 0, {"temperature": 1.0, "drafts": "text"}),
        (4, 0, {"temperature": 0.8, "top_k": 3, "drafts": "text"}),
        (3, 0, {"temperature": 1.5, "top_p": 0.9, "min_p": 0.1, "drafts": "text"}),
        (3, 2, {"temperature": 1.0, "drafts": "both"}),
        (3, 0, {"temperature": 1.0, "no_repeat_ngram": 1, "min_tokens": 2, "drafts": "text"}),
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
    permitted, seeds = constraints_of(options, model.config).permitted, list(range(SAMPLES))
    if options.drafts in ("text", "both"):
        sources = Copied(TABLE, options.drafts == "both")
        drafter = SamplingPhraseDrafter(engine, options, state, seeds, sources, permitted)
    else:
        drafter = SpeculativeDrafter(engine, options, state, seeds, permitted)
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


@pytest.mark.parametrize("drafts", ["masks", "all-masks", "text", "both"])
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


@pytest.mark.parametrize("economy", [False, True])
@pytest.mark.parametrize("batch_size", [1, 9])
@pytest.mark.parametrize(
    "choices",
    [
        {"drafts": "text"},
        {"drafts": "both", "top_p": 0.8},
        {"drafts": "text", "banned_tokens": (7, 9)},
        {"drafts": "text", "group_size": 9},
    ],
    ids=str,
)
def test_drafts_that_were_not_drawn_give_the_text_that_k1_samples(choices, batch_size, economy):
    # Guards: numbers that a rejected draft uses up, or that are drawn again when drafting pauses.
    model = tiny(2, vocabulary_size=20)
    engine = EagerStepModel(model)
    sources = [[4 + (row * 7 + place) % 16 for place in range(1 + row % 5)] for row in range(18)]
    sampled = {"temperature": 0.5, "seed": 3, "min_tokens": 12, "batch_size": batch_size}
    rules = {name: value for name, value in choices.items() if name not in ("drafts", "group_size")}
    expected = decode_corpus(engine, sources, DecodeOptions.made(**sampled, **rules))
    requested = DecodeOptions.made(**{"group_size": 4, "mode": "exact", **sampled, **choices})
    way = plan(requested, model.config)
    found = decode_corpus(engine, sources, way.thrifty() if economy else way)
    assert [(each.tokens, each.ending) for each in found] == [
        (each.tokens, each.ending) for each in expected
    ]
    assert economy or sum(each.steps for each in found) < sum(each.steps for each in expected)


def test_masks_are_the_default_for_samples_where_they_were_trained():
    # Guards: advice that leads in a circle: masks of an untrained size, or text that refuses a
    # temperature; copies where masks are drawn.
    config, table = tiny().config, Measured(phrases=TABLE)
    sampled = DecodeOptions.made(group_size=4, mode="exact", temperature=0.8)
    assert plan(sampled, config, knowledge=table).drafts == "masks"
    untrained = config.model_copy(update={"group_sizes": (1,)})
    assert plan(sampled, untrained, knowledge=table).drafts == "text"
    with pytest.raises(UsageError, match="trained for 1: choose 1, or drafts text, which needs no"):
        plan(sampled, untrained)
    followed = sampled.model_copy(update={"drafts": "text"})
    assert plan(followed, untrained).drafts == "text"
