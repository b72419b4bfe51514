"""A prompt is read as if it had been written: what follows it is what would have followed."""

import pytest
import torch

from multistride.decode.choosing.policy import fixed
from multistride.decode.ending import EndingRule
from multistride.decode.exact import Drafter
from multistride.decode.loop import GroupWriter, decode
from multistride.decode.pick import greedy
from multistride.decode.state import DecodeState
from multistride.decode.uncached import UncachedStepModel
from multistride.engines.eager import EagerStepModel
from multistride.groups import NO_LABEL, equal_sizes, teacher_forced, without_start
from multistride.model.config import TransformerConfig
from multistride.model.transformer import Transformer

NEW = 9


def causal_model(**changes):
    """A small random causal model of the Llama kind, whose reach vectors are not zero."""
    torch.manual_seed(7)
    sizes = {
        "vocabulary_size": 40,
        "hidden_size": 32,
        "feedforward_size": 48,
        "heads": 4,
        "encoder_layers": 0,
    }
    kind = {
        "positions": "rotary",
        "norm_kind": "rms",
        "activation": "silu",
        "gated_feedforward": True,
    }
    fewer = {
        "key_value_heads": 2,
        "attention_bias": "none",
        "feedforward_bias": False,
        "query_key_norm": True,
    }
    rest = {
        "max_positions": 64,
        "group_sizes": (1, 2, 4),
        "decoder_layers": 2,
        "dropout": 0.0,
        "end_token": 2,
    }
    model = Transformer(TransformerConfig(**{**sizes, **kind, **fewer, **rest, **changes})).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.6)
        model.reach.beyond_one.weight[1:].normal_(std=0.5)
    return model


def prompts():
    generator = torch.Generator().manual_seed(11)
    lengths = (1, 5, 2, 17)
    return [torch.randint(5, 40, (length,), generator=generator).tolist() for length in lengths]


def written(engine, given, group_size, exact=False):
    config = engine.config
    state = DecodeState(
        [NEW] * len(given),
        config.start_token,
        EndingRule.at(config.end_token),
        given,
        config.start_symbol,
    )
    if exact:
        passes = decode(engine, None, None, state, Drafter(engine, len(state.running), group_size))
    else:
        passes = decode(engine, None, None, state, GroupWriter(engine, fixed(group_size)))
    for _ in passes:
        pass
    return [hypothesis.tokens for hypothesis in state.hypotheses]


@pytest.mark.parametrize("group_size", [1, 2, 4])
def test_a_prompt_that_the_model_wrote_itself_is_continued_as_the_model_did(group_size):
    """A prompt read at the wrong places, in the wrong groups or without its start symbol changes
    what follows."""
    engine = EagerStepModel(causal_model())
    [whole] = written(engine, [[]], 1)
    [rest] = written(engine, [whole[:4]], group_size, exact=group_size > 1)
    assert rest[: len(whole) - 4] == whole[4:]


@pytest.mark.parametrize("start_symbol", [True, False])
@pytest.mark.parametrize("group_size", [1, 2, 4])
def test_what_is_written_after_a_prompt_is_what_one_parallel_pass_says(group_size, start_symbol):
    """The slots of prompt and steps together are those of training: group size 1 up to the prompt's
    end, then K."""
    model = causal_model(start_symbol=start_symbol)
    given = prompts()
    for prompt, tokens in zip(
        given, written(EagerStepModel(model), given, group_size), strict=True
    ):
        text = torch.tensor([prompt + tokens])
        lengths = torch.tensor([text.shape[1]])
        after = equal_sizes(torch.tensor([len(tokens)]), group_size)
        sizes = torch.cat([torch.ones(1, len(prompt), dtype=torch.long), after], dim=1)
        slots, labels = teacher_forced(text, lengths, sizes, model.config.start_token)
        if not start_symbol:
            slots, labels = without_start(slots, labels)
        asked = (labels != NO_LABEL) & (slots.position >= len(prompt))
        with torch.inference_mode():
            picked = greedy(model.config)(
                model.project(model(None, None, slots))[asked][None]
            ).tokens[0]
        assert picked.tolist() == tokens


@pytest.mark.parametrize("start_symbol", [True, False])
@pytest.mark.parametrize("group_size", [1, 2, 4])
def test_prompts_of_unequal_length_do_not_see_each_other(group_size, start_symbol):
    """Padding that somebody sees, and rows that share a group number, show in batches of unequal
    prompts."""
    model = causal_model(start_symbol=start_symbol)
    together = written(EagerStepModel(model), prompts(), group_size)
    assert together == [
        written(EagerStepModel(model), [prompt], group_size)[0] for prompt in prompts()
    ]
    assert together == written(UncachedStepModel(model), prompts(), group_size)


@pytest.mark.parametrize("start_symbol", [True, False])
def test_exact_mode_after_a_prompt_writes_what_k1_writes(start_symbol):
    engine = EagerStepModel(causal_model(start_symbol=start_symbol))
    assert written(engine, prompts(), 4, exact=True) == written(engine, prompts(), 1)


def test_a_long_prompt_is_read_in_parts():
    """A part that forgets the part before it, or repeats a slot, changes the logits after the
    prompt."""
    config = causal_model().config
    engine = EagerStepModel(causal_model())
    state = DecodeState(
        [4, 4], config.start_token, EndingRule.at(config.end_token), [list(range(5, 25)), [7, 8]]
    )
    logits = []
    for width in (3, 256):
        memory = engine.start(None, None)
        parts = list(state.prompt_slots(width))
        assert all(part.token.shape[1] <= width for part in parts)
        for part in parts:
            engine.step(part, memory)
        logits.append(engine.step(state.slots(1), memory))
    torch.testing.assert_close(*logits, atol=1e-5, rtol=1e-5)
