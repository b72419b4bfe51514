"""Scoring in one parallel pass says what decoding said step by step; sampling depends on the
request alone."""

import pytest
import torch

from multistride.decode.corpus import decode_corpus
from multistride.decode.options import DecodeOptions
from multistride.decode.score import score_pairs
from multistride.engines.eager import EagerStepModel
from multistride.model.config import TransformerConfig
from multistride.model.transformer import Transformer

LIMITS = {"limit_ratio": 1.0, "limit_extra": 9}


@pytest.fixture(scope="module", params=[0, 4], ids=["plain", "markov"])
def any_model(request, model):
    """The model of all equivalences, and the same with a Markov head that matters."""
    if request.param == 0:
        return model
    config = TransformerConfig.model_validate(
        {**model.config.model_dump(), "markov_rank": request.param}
    )
    corrected = Transformer(config).eval()
    corrected.load_state_dict({**corrected.state_dict(), **model.state_dict()})
    torch.manual_seed(8)
    with torch.no_grad():
        corrected.markov.following.normal_(std=0.7)
    return corrected


@pytest.mark.parametrize("choices", [{}, {"beam": 3}, {"temperature": 1.0, "seed": 4}], ids=str)
@pytest.mark.parametrize("group_size", [1, 2, 4, 8])
def test_scores_are_those_that_decoding_reports(any_model, sources, group_size, choices):
    # Guards: probabilities over other tokens, of another slot, or without the head.
    options = DecodeOptions.made(group_size=group_size, **choices, **LIMITS)
    decoded = decode_corpus(EagerStepModel(any_model), sources, options)
    pairs = [(source, each.tokens) for source, each in zip(sources, decoded, strict=True)]
    scores = score_pairs(any_model, pairs, group_size, tokens_per_batch=100)
    for each, (_, tokens), found in zip(decoded, pairs, scores, strict=True):
        assert len(found) == len(tokens) + 1, "EOS has a score of its own"
        written = len(
            each.log_probabilities
        )  # where the limit ended a sentence, decoding wrote no EOS
        assert found[:written] == pytest.approx(each.log_probabilities, abs=2e-4)


@pytest.mark.parametrize("choices", [{}, {"beam": 3}, {"mode": "exact"}], ids=str)
@pytest.mark.parametrize("group_size", [1, 2, 4])
def test_scores_behind_a_forced_first_token(forced_model, sources, group_size, choices):
    # Guards: groups that begin with the token where a text is scored, and behind it where it is
    # written.
    options = DecodeOptions.made(group_size=group_size, **choices, **LIMITS)
    decoded = decode_corpus(EagerStepModel(forced_model), sources, options)
    pairs = [(source, each.tokens) for source, each in zip(sources, decoded, strict=True)]
    scores = score_pairs(forced_model, pairs, 1 if choices.get("mode") else group_size)
    for each, found in zip(decoded, scores, strict=True):
        assert (each.tokens[0], len(each.groups[0].tokens)) == (7, 1)
        written = len(each.log_probabilities)
        assert found[:written] == pytest.approx(each.log_probabilities, abs=2e-4)


def test_samples_follow_from_seed_and_source(any_model, sources):
    # Guards: neighbours in the batch that change a sentence's sample, and seeds that change
    # nothing.
    engine = EagerStepModel(any_model)

    def drawn(batch_size, **choices):
        options = DecodeOptions.made(
            group_size=2, temperature=1.0, batch_size=batch_size, **choices, **LIMITS
        )
        return [each.tokens for each in decode_corpus(engine, sources, options)]

    assert drawn(24) == drawn(1) == drawn(5)
    assert drawn(24, seed=1) != drawn(24)
    assert drawn(24, top_k=1) == [
        each.tokens
        for each in decode_corpus(engine, sources, DecodeOptions(group_size=2, **LIMITS))
    ]
