"""Beam search on a real Transformer says what the slow, obvious search says."""

import functools
import itertools
from dataclasses import replace

import pytest
import torch

from multistride.decode import beam, state
from multistride.decode.batch import decode_batch
from multistride.decode.beam import search, search_batch
from multistride.decode.corpus import decode_corpus, source_batch
from multistride.decode.options import DecodeOptions
from multistride.decode.plan import plan
from multistride.decode.uncached import UncachedStepModel
from multistride.engines.eager import EagerStepModel
from multistride.groups import NO_LABEL, equal_sizes, teacher_forced
from multistride.model.config import TransformerConfig
from multistride.model.transformer import Transformer

GROUP_SIZES = (1, 2, 3, 4)


def asked(group_size, beam, **choices):
    return DecodeOptions(
        group_size=group_size, beam=beam, limit_ratio=1.0, limit_extra=9, **choices
    )


def unchecked(options, config):
    """A plan of options that a checked one would refuse, such as a beam wider than the
    vocabulary."""
    return replace(plan(DecodeOptions(), config), options=options)


def found_by(engine, sources, options):
    """All hypotheses of all sentences, in batches of 8."""
    found = []
    for first in range(0, len(sources), 8):
        source, lengths = source_batch(sources[first : first + 8], engine.config)
        limits = [options.limit(length, engine.config) for length in lengths.tolist()]
        found += search(engine, source, lengths, limits, unchecked(options, engine.config))
    return found


def written(hypothesis):
    return [token for group in hypothesis.groups for token in group.tokens]


def without_never(logits, config):
    """Logits in float64 in which what may not be picked is impossible."""
    never = torch.tensor([config.pad_token, config.start_token, config.mask_token])
    return logits.double().index_fill(-1, never, float("-inf"))


def rescored(model, source, outputs, group_size):
    """The log-probability of every token of `outputs` from one parallel pass, over what can be
    picked."""
    config = model.config
    lengths = torch.tensor([len(tokens) for tokens in outputs])
    target = torch.nn.utils.rnn.pad_sequence(
        [torch.tensor(tokens) for tokens in outputs], batch_first=True
    )
    slots, labels = teacher_forced(
        target, lengths, equal_sizes(lengths, group_size), config.start_token
    )
    tokens, length = source_batch([source], config)
    with torch.inference_mode():
        hidden = model(tokens.expand(len(outputs), -1), length.expand(len(outputs)), slots)
        logits = without_never(model.project(hidden), config)
    labelled = labels != NO_LABEL
    values = logits.log_softmax(-1).gather(-1, labels.clamp(min=0)[..., None])[..., 0]
    return [row[mask].tolist() for row, mask in zip(values, labelled, strict=True)]


def plain_search(model, source, limit, beam, group_size, length_penalty):
    """Beam search in lists: one token at a time, every distribution from a pass over the whole
    prefix."""
    config = model.config
    never = (config.pad_token, config.start_token, config.mask_token)
    pickable = [token for token in range(config.vocabulary_size) if token not in never]
    open_ones, finished = [([], 0.0)], []
    while open_ones:
        candidates = []
        for tokens, total in open_ones:
            values = _next(model, source, tokens, group_size)
            candidates += [([*tokens, token], total + values[token].item()) for token in pickable]
        candidates.sort(key=lambda candidate: -candidate[1])
        kept, open_ones = candidates[: beam - len(finished)], []
        for tokens, total in kept:
            over = tokens[-1] == config.end_token or len(tokens) == limit
            (finished if over else open_ones).append((tokens, total))
    return sorted(finished, key=lambda each: -each[1] / len(each[0]) ** length_penalty)


def _next(model, source, tokens, group_size):
    """The log-probabilities of the next token [V]; tokens of its own group are not seen."""
    config, place = model.config, len(tokens)
    border = place // group_size * group_size
    target = torch.tensor([tokens[:border] + [0] * group_size])
    lengths = torch.tensor([border + group_size])
    slots, labels = teacher_forced(
        target, lengths, equal_sizes(lengths, group_size), config.start_token
    )
    with torch.inference_mode():
        logits = without_never(
            model.project(model(*source_batch([source], config), slots)), config
        )[0]
    return logits[(slots.position[0] == place) & (labels[0] != NO_LABEL)][0].log_softmax(-1)


@pytest.mark.parametrize("group_size", GROUP_SIZES)
def test_a_beam_of_one_equals_greedy(model, sources, group_size):
    # Guards: two ways of counting steps, limits and probabilities, one for greedy and one for the
    # beam.
    engine, options = EagerStepModel(model), asked(group_size, 1)
    source = source_batch(sources, model.config)
    for one, other in zip(
        search_batch(engine, *source, options), decode_batch(engine, *source, options), strict=True
    ):
        assert (one.tokens, one.ending, one.steps) == (other.tokens, other.ending, other.steps)
        assert one.log_probabilities == pytest.approx(other.log_probabilities, abs=1e-5)


@pytest.mark.parametrize("group_size", GROUP_SIZES)
def test_batch_equals_single(model, sources, group_size):
    # Guards: padding that leaks into attention, beams that cross from one sentence into another.
    engine, sources = EagerStepModel(model), sources[:12]
    together = decode_corpus(engine, sources, asked(group_size, 4))
    alone = decode_corpus(engine, sources, asked(group_size, 4, batch_size=1))
    assert [each.tokens for each in together] == [each.tokens for each in alone]
    greedy = decode_corpus(engine, sources, asked(group_size, 1))
    assert [each.tokens for each in together] != [each.tokens for each in greedy], (
        "the beam had nothing to find"
    )


@pytest.mark.parametrize("group_size", GROUP_SIZES)
def test_cached_equals_uncached(model, sources, group_size):
    # Guards: a cache that is not reordered with its beams, or holds another beam's past.
    options, sources = asked(group_size, 3), sources[:12]
    cached = found_by(EagerStepModel(model), sources, options)
    uncached = found_by(UncachedStepModel(model), sources, options)
    assert [[written(each.hypothesis) for each in ranked] for ranked in cached] == [
        [written(each.hypothesis) for each in ranked] for ranked in uncached
    ]
    assert len({len(ranked[0].hypothesis.tokens) for ranked in cached}) > 3, (
        "the outputs are too alike"
    )


@pytest.mark.parametrize("group_size", GROUP_SIZES)
def test_every_score_is_that_of_one_parallel_pass(model, sources, group_size):
    # Guards: scores of another hypothesis, of another layout than training has, or without EOS.
    for source, ranked in zip(
        sources,
        found_by(EagerStepModel(model), sources, asked(group_size, 4, length_penalty=0.8)),
        strict=True,
    ):
        outputs = [written(each.hypothesis) for each in ranked]
        assert len(outputs) == 4
        for (score, hypothesis), own in zip(
            ranked, rescored(model, source, outputs, group_size), strict=True
        ):
            assert hypothesis.log_probabilities == pytest.approx(own, abs=1e-4)
            assert score == pytest.approx(sum(own) / len(own) ** 0.8, abs=1e-4)


@pytest.mark.parametrize("group_size", GROUP_SIZES)
@pytest.mark.parametrize("length_penalty", [0.0, 1.0])
def test_it_equals_a_plain_search(model, sources, group_size, length_penalty):
    # Guards: anything the vectorised search does otherwise than beam search is defined, K=1 above
    # all.
    options = asked(group_size, 4, length_penalty=length_penalty)
    chosen = sources[:2]
    for source, ranked in zip(
        chosen, found_by(EagerStepModel(model), chosen, options), strict=True
    ):
        limit = options.limit(len(source) + 1, model.config)
        expected = plain_search(model, source, limit, 4, group_size, length_penalty)
        assert [written(each.hypothesis) for each in ranked] == [tokens for tokens, _ in expected]


@pytest.fixture(scope="module", params=[0, 1, 2])
def tiny(request):
    """A random model that can only write three different words and EOS."""
    torch.manual_seed(request.param)
    config = TransformerConfig(
        vocabulary_size=7,
        hidden_size=16,
        feedforward_size=32,
        heads=2,
        encoder_layers=1,
        decoder_layers=2,
        max_positions=16,
        max_group_size=3,
        group_sizes=(1, 2, 3),
    )
    transformer = Transformer(config).eval()
    with torch.no_grad():
        for parameter in transformer.parameters():
            parameter.mul_(2.0)
    return transformer


@pytest.mark.parametrize("group_size", [1, 2, 3])
@pytest.mark.parametrize("length_penalty", [0.0, 1.0])
def test_an_exhaustive_beam_equals_enumeration(tiny, group_size, length_penalty):
    # Guards: a best output that is not the best, or scored otherwise than the model scores it.
    words, end, limit = (4, 5, 6), tiny.config.end_token, 4
    space = [
        [*each, end] for length in range(limit) for each in itertools.product(words, repeat=length)
    ]
    space += map(list, itertools.product(words, repeat=limit))
    options = DecodeOptions(group_size=group_size, beam=len(space), length_penalty=length_penalty)
    source, lengths = source_batch([[4, 6, 5]], tiny.config)
    [ranked] = search(
        EagerStepModel(tiny), source, lengths, [limit], unchecked(options, tiny.config)
    )
    scores = [
        sum(own) / len(own) ** length_penalty
        for own in rescored(tiny, [4, 6, 5], space, group_size)
    ]
    by_output = dict(zip(map(tuple, space), scores, strict=True))
    assert {tuple(written(each.hypothesis)) for each in ranked} == set(by_output)
    assert by_output[tuple(written(ranked[0].hypothesis))] == max(scores)
    for score, hypothesis in ranked:
        assert score == pytest.approx(by_output[tuple(written(hypothesis))], abs=1e-4)


@pytest.mark.parametrize("start_symbol", [True, False])
def test_prompts_are_read_in_parts_and_without_logits(monkeypatch, start_symbol):
    """Logits of all tokens of a prompt: 400 MB for 2,000 tokens and a vocabulary of 50,000."""
    torch.manual_seed(5)
    config = TransformerConfig(
        vocabulary_size=20,
        hidden_size=16,
        feedforward_size=32,
        heads=2,
        encoder_layers=0,
        group_sizes=(1, 2, 4),
        start_symbol=start_symbol,
    )
    causal = Transformer(config).eval()
    prompts, lengths = torch.randint(4, 20, (3, 11)), torch.tensor([11, 1, 6])
    plan = unchecked(DecodeOptions(group_size=2, beam=3), config)

    def found(width):
        engine, seen = EagerStepModel(causal), [0]
        project = engine._project
        engine._project = lambda hidden: seen.append(hidden.shape[1]) or project(hidden)
        passes = functools.partial(state.prompt_passes, width=width)
        monkeypatch.setattr(beam, "prompt_passes", passes)
        ranked = search(engine, prompts, lengths, [9, 4, 6], plan)
        assert max(seen) == 2, "slots of a step, not of a prompt"
        return [[written(each.hypothesis) for each in each_text] for each_text in ranked]

    assert found(4) == found(256)


def test_without_a_source():
    # Guards: a search that needs an encoder, where a causal model has none.
    torch.manual_seed(5)
    config = TransformerConfig(
        vocabulary_size=20,
        hidden_size=16,
        feedforward_size=32,
        heads=2,
        encoder_layers=0,
        group_sizes=(1, 2, 4),
    )
    causal = Transformer(config).eval()
    options = DecodeOptions(group_size=2, beam=3)
    cached = search(EagerStepModel(causal), None, None, [9, 4], unchecked(options, config))
    uncached = search(UncachedStepModel(causal), None, None, [9, 4], unchecked(options, config))
    assert [[written(each.hypothesis) for each in ranked] for ranked in cached] == [
        [written(each.hypothesis) for each in ranked] for ranked in uncached
    ]
    assert [len(ranked) for ranked in cached] == [3, 3]
