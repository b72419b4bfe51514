"""Causal models: what stands before the text is read once, and every way of decoding goes on from
it."""

import pytest
import torch

from multistride.decode.batch import begin_batch
from multistride.decode.corpus import decode_corpus, source_batch
from multistride.decode.options import DecodeOptions
from multistride.decode.pick import greedy
from multistride.decode.uncached import UncachedStepModel
from multistride.engines.eager import EagerStepModel
from multistride.groups import NO_LABEL, after_prompts, equal_sizes, teacher_forced
from multistride.model.config import TransformerConfig
from multistride.model.transformer import Transformer

GROUP_SIZES = (1, 2, 3, 4, 8)

WAYS = {
    "fast": {},
    "adaptive": {"mode": "adaptive", "threshold": 0.02},
    "exact": {"mode": "exact"},
    "sampling": {"temperature": 1.0, "top_k": 5, "seed": 3},
    "beam": {"beam": 3},
}


@pytest.fixture(scope="module", params=["sinusoidal", "learned"])
def causal(request):
    """A small random decoder-only model whose outputs vary, end at different lengths, and do use
    the reach."""
    torch.manual_seed(4)
    sizes = {
        "vocabulary_size": 40,
        "hidden_size": 32,
        "feedforward_size": 64,
        "heads": 4,
        "max_positions": 48,
    }
    config = TransformerConfig(
        **sizes,
        encoder_layers=0,
        decoder_layers=2,
        positions=request.param,
        max_group_size=8,
        group_sizes=GROUP_SIZES,
    )
    transformer = Transformer(config).eval()
    with torch.no_grad():
        for parameter in transformer.parameters():
            parameter.mul_(1.6)
        transformer.reach.beyond_one.weight[1:].normal_(std=0.5)
    return transformer


@pytest.fixture(scope="module")
def prompts():
    generator = torch.Generator().manual_seed(6)
    lengths = [0, 1, 2, *torch.randint(0, 20, (13,), generator=generator).tolist()]
    return [torch.randint(5, 40, (length,), generator=generator).tolist() for length in lengths]


def written(engine, prompts, batch_size=16, **choices):
    options = DecodeOptions.made(batch_size=batch_size, max_tokens=14, **choices)
    return [each.tokens for each in decode_corpus(engine, prompts, options)]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("group_size", GROUP_SIZES)
def test_cached_equals_uncached(causal, prompts, group_size, way):
    # Guards: a prompt read under a wrong mask, or rows of it left visible to others.
    choices = {"group_size": group_size, **WAYS[way]}
    cached = written(EagerStepModel(causal), prompts, **choices)
    assert cached == written(UncachedStepModel(causal), prompts, **choices)
    assert len(set(map(tuple, cached))) > 6, "the outputs are too alike to prove anything"


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("group_size", GROUP_SIZES)
def test_batch_equals_single(causal, prompts, group_size, way):
    # Guards: prompts of unequal length whose padding or whose neighbours change the text.
    choices = {"group_size": group_size, **WAYS[way]}
    engine = EagerStepModel(causal)
    assert written(engine, prompts, **choices) == written(engine, prompts, batch_size=1, **choices)


@pytest.mark.parametrize("group_size", GROUP_SIZES)
def test_exact_equals_autoregressive(causal, prompts, group_size):
    # Guards: drafts checked against another prompt, or the first token after it taken from a mask.
    engine = EagerStepModel(causal)
    assert written(engine, prompts, group_size=group_size, mode="exact") == written(engine, prompts)


@pytest.mark.parametrize("group_size", GROUP_SIZES)
def test_decoding_equals_one_parallel_pass(causal, prompts, group_size):
    # Guards: training on other slots than the prompt and the groups behind it have when decoding.
    engine, special = EagerStepModel(causal), causal.config.start_token
    options = DecodeOptions.made(group_size=group_size, max_tokens=14)
    for prompt, hypothesis in zip(prompts, decode_corpus(engine, prompts, options), strict=True):
        new = [token for group in hypothesis.groups for token in group.tokens]
        target, known = torch.tensor([[*prompt, *new]]), torch.tensor([len(prompt)])
        sizes = after_prompts(known, equal_sizes(torch.tensor([len(new)]), group_size))
        slots, labels = teacher_forced(target, known + len(new), sizes, special)
        labels = labels.masked_fill(slots.position < known[:, None], NO_LABEL)
        with torch.inference_mode():
            picked = greedy(causal.config)(causal.project(causal(None, None, slots)))
        asked = labels != NO_LABEL
        assert picked.tokens[asked].tolist() == new == labels[asked].tolist()
        expected = torch.tensor(hypothesis.log_probabilities)
        torch.testing.assert_close(picked.log_probabilities[asked], expected, atol=1e-4, rtol=0)


def test_a_prompt_is_what_k1_would_have_read(causal, prompts):
    # Guards: a prompt whose keys depend on K, so that it could not be shared.
    engine = EagerStepModel(causal)
    whole = written(engine, prompts)
    for prompt, tokens in zip(prompts, whole, strict=True):
        if len(tokens) > 3:
            again = written(engine, [prompt + tokens[:3]])
            assert again[0][: len(tokens) - 3] == tokens[3:]


def test_the_context_is_never_exceeded(causal):
    # Guards: a text that runs past the last position.
    config = causal.config
    prompt = [7] * (config.max_positions - 3)
    options = DecodeOptions.made(group_size=4)
    state, passes = begin_batch(EagerStepModel(causal), *source_batch([prompt], config), options)
    for _ in passes:
        pass
    assert len(state.hypotheses[0].log_probabilities) <= 3
