"""Constraints hold in every way of decoding, change nothing where they bar nothing, and leave exact
mode exact."""

import itertools
from dataclasses import replace

import pytest
import torch

from multistride.data.vocab import train_vocabulary
from multistride.decode.beam import search
from multistride.decode.constraints import Constraints, constraints_of
from multistride.decode.corpus import decode_corpus, source_batch
from multistride.decode.options import DecodeOptions
from multistride.decode.plan import plan
from multistride.decode.score import score_pairs
from multistride.decode.spans import spans
from multistride.decode.uncached import UncachedStepModel
from multistride.engines.eager import EagerStepModel
from multistride.model.config import TransformerConfig
from multistride.model.transformer import Transformer

LIMITS = {"limit_ratio": 1.0, "limit_extra": 9}
WORDS = [f"{first}{second}" for first, second in itertools.product("abcde", "klmnopq")]

WAYS = {
    "one": {"group_size": 1},
    "fast": {"group_size": 3},
    "whole": {"group_size": 8},
    "adaptive": {"group_size": 4, "mode": "adaptive", "threshold": 0.05},
    "exact": {"group_size": 4, "mode": "exact"},
    "sampling": {"group_size": 3, "temperature": 1.0},
    "speculative": {"group_size": 4, "mode": "exact", "temperature": 1.0},
    "beam": {"group_size": 3, "beam": 3},
}

RULES = {
    "prefix": {"prefix": "ak bl cm dn"},
    "min": {"min_tokens": 14},
    "max": {"max_tokens": 5},
    "tokens": {"banned_tokens": (16, 24)},
    "texts": {"banned": ("b", "p e", "n d")},
    "ngram": {"no_repeat_ngram": 1, "min_tokens": 4},
    "stop": {"stop": ("n", "p ", "bo")},
    "all": {
        "prefix": "ak bl",
        "min_tokens": 4,
        "no_repeat_ngram": 2,
        "stop": ("q",),
        "banned": ("e",),
    },
}


@pytest.fixture(scope="module")
def sources(sources):
    return sources[:10]


@pytest.fixture(scope="module")
def vocabulary():
    return train_vocabulary([" ".join(WORDS)], 40, "words")


def random_model(**choices):
    """A model whose texts vary and end at different lengths: its output matrix is not that of its
    input."""
    torch.manual_seed(3)
    sizes = {
        "hidden_size": 32,
        "feedforward_size": 32,
        "heads": 2,
        "encoder_layers": 1,
        "decoder_layers": 1,
    }
    groups = {"max_group_size": 8, "group_sizes": (1, 2, 3, 4, 8)}
    config = TransformerConfig(
        vocabulary_size=40, max_positions=64, tie_embeddings=False, **sizes, **groups, **choices
    )
    random = Transformer(config).eval()
    with torch.no_grad():
        for parameter in random.parameters():
            parameter.mul_(1.5)
        random.output.weight.mul_(3)
        random.reach.beyond_one.weight[1:].normal_(std=0.5)
        if random.markov is not None:
            random.markov.following.normal_(std=0.7)
    return random


@pytest.fixture(scope="module")
def model():
    return random_model()


@pytest.fixture(scope="module")
def corrected():
    """One with a Markov head that matters."""
    return random_model(markov_rank=4)


def decoded(engine, sources, vocabulary, **choices):
    options = DecodeOptions.made(**{**LIMITS, **choices})
    return decode_corpus(engine, sources, plan(options, engine.config, vocabulary))


def outcomes(hypotheses):
    return [(each.tokens, each.ending) for each in hypotheses]


def obeys(
    hypothesis,
    vocabulary,
    prefix="",
    min_tokens=0,
    max_tokens=99,
    banned_tokens=(),
    banned=(),
    **others,
):
    """Whether a hypothesis keeps all rules, read off its text and tokens."""
    tokens, text = hypothesis.tokens, vocabulary.decode(hypothesis.tokens)
    stops, length = others.get("stop", ()), others.get("no_repeat_ngram", 0)
    grams = (
        [tuple(tokens[place : place + length]) for place in range(len(tokens) - length + 1)]
        if length
        else []
    )
    early = [
        any(stop in vocabulary.decode(tokens[:count]) for stop in stops)
        for count in range(len(tokens) + 1)
    ]
    return (
        text.startswith(prefix)
        and (len(tokens) >= min_tokens or hypothesis.ending == "stop")
        and len(hypothesis.log_probabilities) <= max_tokens
        and not set(tokens) & set(banned_tokens)
        and not any(each in text for each in banned)
        and len(grams) == len(set(grams))
        and not any(early[:-1])
        and early[-1] == (hypothesis.ending == "stop")
    )


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("way", WAYS)
def test_every_rule_holds_in_every_way(corrected, sources, vocabulary, way, rule):
    # Guards: a rule forgotten in one mode, looked for in one group only, or applied one token late.
    found = decoded(EagerStepModel(corrected), sources, vocabulary, **{**WAYS[way], **RULES[rule]})
    assert all(obeys(hypothesis, vocabulary, **RULES[rule]) for hypothesis in found)


@pytest.mark.parametrize("way", WAYS)
def test_every_rule_has_something_to_do(corrected, sources, vocabulary, way):
    # Guards: a test of rules that nothing would have broken.
    free = decoded(EagerStepModel(corrected), sources, vocabulary, **WAYS[way])
    idle = [
        rule
        for rule, asked in RULES.items()
        if all(obeys(each, vocabulary, **asked) for each in free)
    ]
    assert idle == []


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize(
    ("group_size", "drafts"), [(2, None), (4, None), (8, None), (4, "text"), (4, "both")]
)
def test_constrained_exact_equals_constrained_autoregressive(
    corrected, sources, vocabulary, rule, group_size, drafts
):
    # Guards: drafts checked against what K=1 would write without the rules, or a history that lacks
    # the drafts.
    engine = EagerStepModel(corrected)
    one = decoded(engine, sources, vocabulary, **RULES[rule])
    for batch_size in (1, 24):
        choices = {
            "group_size": group_size,
            "mode": "exact",
            "drafts": drafts,
            "batch_size": batch_size,
            **RULES[rule],
        }
        assert outcomes(decoded(engine, sources, vocabulary, **choices)) == outcomes(one)


@pytest.mark.parametrize("rule", ["prefix", "all"])
@pytest.mark.parametrize("way", WAYS)
def test_batches_and_caches_change_nothing(corrected, sources, vocabulary, way, rule):
    # Guards: a prefix that only the first row gets, or slots of a prefix that later steps do not
    # see.
    choices, some = {**WAYS[way], **RULES[rule]}, sources[:6]
    together = decoded(EagerStepModel(corrected), some, vocabulary, **choices)
    alone = decoded(EagerStepModel(corrected), some, vocabulary, **choices, batch_size=1)
    uncached = decoded(UncachedStepModel(corrected), some, vocabulary, **choices)
    assert outcomes(together) == outcomes(alone) == outcomes(uncached)


@pytest.mark.parametrize("way", WAYS)
def test_a_rule_that_bars_nothing_changes_nothing(model, sources, vocabulary, way):
    # Guards: another choice, other log-probabilities or another random number where a rule is only
    # watched.
    engine = EagerStepModel(model)
    free = decoded(engine, sources, vocabulary, **WAYS[way])
    watched = decoded(
        engine, sources, vocabulary, **WAYS[way], no_repeat_ngram=40, banned=("xyz",), stop=("xyz",)
    )
    assert outcomes(watched) == outcomes(free)
    for one, other in zip(watched, free, strict=True):
        assert one.log_probabilities == pytest.approx(other.log_probabilities, abs=1e-4)


@pytest.mark.parametrize("way", ["one", "fast", "exact", "beam"])
@pytest.mark.parametrize("length", [1, 3, 4, 5])
def test_a_prefix_has_the_log_probabilities_that_scoring_gives(
    corrected, sources, vocabulary, way, length
):
    # Guards: a prefix counted as certain, or laid out in other groups than score lays it out.
    prefix = " ".join(WORDS[5 : 5 + length])
    [tokens] = vocabulary.encode([prefix])
    found = decoded(EagerStepModel(corrected), sources, vocabulary, **WAYS[way], prefix=prefix)
    group_size = 1 if way == "exact" else WAYS[way]["group_size"]
    scores = score_pairs(corrected, [(source, tokens) for source in sources], group_size)
    for hypothesis, expected in zip(found, scores, strict=True):
        assert hypothesis.log_probabilities[:length] == pytest.approx(expected[:length], abs=1e-4)
        assert hypothesis.groups[0].tokens == tuple(tokens)


@pytest.mark.parametrize("way", ["one", "fast", "exact"])
def test_a_prefix_that_would_have_been_written_changes_nothing(corrected, sources, vocabulary, way):
    # Guards: borders that shift where the prefix is a whole number of groups, and memory it did not
    # fill.
    engine = EagerStepModel(corrected)
    for source in sources[:6]:
        [free] = decoded(engine, [source], vocabulary, **WAYS[way])
        length = 3 * (len(free.tokens) // 6)
        if length and vocabulary.unknown not in free.tokens[:length]:
            prefix = vocabulary.decode(free.tokens[:length])
            [given] = decoded(
                engine, [source], vocabulary, **WAYS[way], prefix=prefix, max_tokens=free.limit
            )
            assert outcomes([given]) == outcomes([free])
            assert given.log_probabilities == pytest.approx(free.log_probabilities, abs=1e-4)


@pytest.mark.parametrize("way", WAYS)
def test_every_sentence_copies_a_span_of_its_own_text_in_every_way(
    corrected, sources, vocabulary, way
):
    # Guards: the rule of a neighbour, once rows have left the batch or beams were reordered; a span
    # cut at a group.
    texts = {
        tuple(source): " ".join(WORDS[place : place + 4]) for place, source in enumerate(sources)
    }
    rule, options = spans(vocabulary), DecodeOptions.made(**{**LIMITS, **WAYS[way]})
    rules = Constraints(allowing=lambda source: rule(texts[tuple(source)]))
    found = decode_corpus(
        EagerStepModel(corrected), sources, replace(plan(options, corrected.config), rules=rules)
    )
    for source, hypothesis in zip(sources, found, strict=True):
        words = texts[tuple(source)].split()
        listed = [words[first:last] for first in range(4) for last in range(first + 1, 5)]
        assert vocabulary.decode(hypothesis.tokens).split() in listed
        assert hypothesis.ending == "end"


@pytest.mark.parametrize("group_size", [1, 3, 8])
def test_exact_mode_copies_the_span_that_k_1_copies(corrected, sources, vocabulary, group_size):
    # Guards: drafts that are judged without the rule, or by that of another row.
    rule = spans(vocabulary)
    rules = Constraints(
        allowing=lambda source: rule(" ".join(WORDS[len(source) : len(source) + 9]))
    )
    one, exact = (
        decode_corpus(
            EagerStepModel(corrected),
            sources,
            replace(plan(DecodeOptions.made(**LIMITS, **way), corrected.config), rules=rules),
        )
        for way in ({"group_size": 1}, {"group_size": group_size, "mode": "exact"})
    )
    assert outcomes(one) == outcomes(exact)


def test_a_constrained_beam_as_wide_as_the_space_finds_what_is_permitted():
    # Guards: permitted hypotheses lost because those that are barred filled the list first.
    torch.manual_seed(4)
    sizes = {
        "hidden_size": 16,
        "feedforward_size": 16,
        "heads": 2,
        "encoder_layers": 1,
        "decoder_layers": 1,
    }
    config = TransformerConfig(
        vocabulary_size=7, max_positions=16, max_group_size=3, group_sizes=(1, 2, 3), **sizes
    )
    tiny, end, limit = Transformer(config).eval(), 2, 4
    space = [
        [*each, end]
        for length in range(limit)
        for each in itertools.product((4, 5, 6), repeat=length)
    ]
    space += map(list, itertools.product((4, 5, 6), repeat=limit))

    def allowed(tokens):
        text = [token for token in tokens if token != end]
        pairs = list(itertools.pairwise(text))
        return len(text) >= 2 and len(pairs) == len(set(pairs))

    for group_size in (1, 2, 3):
        options = DecodeOptions(group_size=group_size, beam=100, min_tokens=2, no_repeat_ngram=2)
        source, lengths = source_batch([[4, 6, 5]], config)
        rules = constraints_of(options, config)
        # wider than the vocabulary, which a checked plan refuses
        wide = replace(plan(DecodeOptions(), config), options=options, rules=rules)
        [ranked] = search(EagerStepModel(tiny), source, lengths, [limit], wide)
        found = {
            tuple(token for group in each.hypothesis.groups for token in group.tokens)
            for each in ranked
        }
        assert found == {tuple(tokens) for tokens in space if allowed(tokens)}


def test_where_nothing_may_be_written_the_sentence_ends():
    # Guards: an endless walk, or a symbol written that never may be.
    config = TransformerConfig(vocabulary_size=7)
    rule = constraints_of(
        DecodeOptions(banned_tokens=(0, 1, 3, 4, 5, 6), min_tokens=3), config
    ).permitted
    own = torch.zeros(1, 7)
    assert rule(own, [[4]], [0])[0].tolist() == [float("-inf")] * 2 + [0.0] + [float("-inf")] * 4
    assert constraints_of(DecodeOptions(), config).permitted is Constraints().permitted is None
