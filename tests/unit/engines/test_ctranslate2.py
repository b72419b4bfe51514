"""CTranslate2 runs our weights: the same tokens, the same scores, the same limits as the eager
engine at K=1."""

import tempfile

import pytest
import torch
from torch import nn

from multistride.baselines import ctranslate2 as engine_module
from multistride.baselines.ctranslate2 import CTranslate2Engine
from multistride.cpu import multiplies_int8
from multistride.decode.corpus import decode_corpus
from multistride.decode.options import DecodeOptions
from multistride.engines.eager import EagerStepModel
from multistride.errors import MissingExtraError, UsageError
from multistride.groups import equal_sizes, teacher_forced
from multistride.model.config import TransformerConfig
from multistride.model.transformer import Transformer

VOCABULARY = 40
NEAR_TIE = 1e-4


def decisive_model(**changes):
    """A model as sure of itself as a trained one: random weights, made large; EOS is likely."""
    sizes = {
        "vocabulary_size": VOCABULARY,
        "hidden_size": 32,
        "feedforward_size": 48,
        "heads": 2,
        "encoder_layers": 2,
        "decoder_layers": 1,
        "max_positions": 24,
        "max_group_size": 4,
        "group_sizes": (1, 4),
    }
    torch.manual_seed(3)
    model = Transformer(TransformerConfig(**{**sizes, **changes})).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 1:
                parameter.add_(0.05 * torch.randn_like(parameter))
            elif "embedding" not in name:
                parameter.mul_(8.0)
        model.reach.beyond_one.weight[1:].normal_()
    return model


def some_sources(count=24):
    generator = torch.Generator().manual_seed(5)
    lengths = torch.randint(1, 20, (count,), generator=generator).tolist()
    return [
        torch.randint(4, VOCABULARY, (length,), generator=generator).tolist() for length in lengths
    ]


def log_probabilities(model, source, tokens):
    """Of each token in turn, by one parallel pass at K=1, over all tokens that may be written."""
    config = model.config
    target, lengths = torch.tensor([tokens]), torch.tensor([len(tokens)])
    slots = teacher_forced(target, lengths, equal_sizes(lengths, 1), config.start_token)[0]
    source = torch.tensor([[*source, config.end_token]])
    with torch.inference_mode():
        logits = model.project(model(source, torch.tensor([source.shape[1]]), slots))[0]
        logits[:, [config.pad_token, config.start_token, config.mask_token]] = float("-inf")
    return logits.log_softmax(-1)


def assert_equal_but_for_near_ties(model, source, expected, found):
    if list(found) == list(expected):
        return
    place = next(
        place
        for place in range(len(expected))
        if list(found[: place + 1]) != list(expected[: place + 1])
    )
    values = log_probabilities(model, source, expected)[place]
    first, second = values.topk(2).values.tolist()
    assert first - second < NEAR_TIE, f"another token at {place}, where {first} beats {second}"


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"norm": "post"},
        {"activation": "gelu"},
        {"tie_embeddings": False},
        {"positions": "learned"},
        {"norm": "post", "activation": "silu", "output_bias": True, "never_written": (0, 1, 3)},
        {"encoder_layers": 1, "decoder_layers": 3, "heads": 4},
    ],
    ids=str,
)
def test_greedy_equals_eager_token_for_token(changes):
    # Guards: any weight, scale, position or normalisation in the wrong place.
    model, sources = decisive_model(**changes), some_sources()
    options = DecodeOptions(batch_size=4)
    expected = decode_corpus(EagerStepModel(model), sources, options)
    found = CTranslate2Engine(model, "float32").decode(sources, options, length_penalty=0.0)
    assert len({tuple(result.tokens) for result in found}) > len(found) // 2, (
        "a model that ignores its source"
    )
    for source, one, other in zip(sources, expected, found, strict=True):
        ending = [] if one.ending == "limit" else [model.config.end_token]
        assert_equal_but_for_near_ties(
            model, source, [*one.tokens, *ending], [*other.tokens, *ending]
        )
        assert other.ended == (one.ending == "end")
        assert other.score == pytest.approx(sum(one.log_probabilities), abs=1e-3)


@pytest.mark.parametrize("penalty", [0.0, 1.0])
def test_the_score_of_a_beam_is_the_score_of_its_output(penalty):
    # Guards: a search over other probabilities than the model's, or another length penalty than was
    # asked for.
    model, sources = decisive_model(), some_sources()
    found = CTranslate2Engine(model, "float32").decode(sources, DecodeOptions(), 4, penalty)
    greedy = CTranslate2Engine(model, "float32").decode(sources, DecodeOptions(), 1, penalty)
    for source, result in zip(sources, found, strict=True):
        tokens = [*result.tokens, *([model.config.end_token] if result.ended else [])]
        values = log_probabilities(model, source, tokens)
        total = sum(values[place, token].item() for place, token in enumerate(tokens))
        assert result.score == pytest.approx(total / len(tokens) ** penalty, abs=1e-3)
    assert sum(result.score for result in found) > sum(result.score for result in greedy)


@pytest.mark.skipif(
    not multiplies_int8(), reason="CTranslate2's products in oneDNN saturate without VNNI"
)
def test_int8_is_close():
    # Guards: quantised weights that are not these weights.
    model, sources = decisive_model(), some_sources()
    exact = CTranslate2Engine(model, "float32").decode(sources, DecodeOptions(), 4)
    coarse = CTranslate2Engine(model, "int8").decode(sources, DecodeOptions(), 4)
    differences = [abs(one.score - other.score) for one, other in zip(exact, coarse, strict=True)]
    assert sum(differences) / len(differences) < 0.1
    assert (
        sum(one.tokens[:1] == other.tokens[:1] for one, other in zip(exact, coarse, strict=True))
        >= 18
    )


def test_order_and_batches_do_not_matter():
    # Guards: results handed to the wrong sentence, or a sentence that depends on its neighbours or
    # on the workers.
    model, sources = decisive_model(), some_sources()
    alone = [
        CTranslate2Engine(model, "float32").decode([source], DecodeOptions(), 2)[0].tokens
        for source in sources[:6]
    ]
    counts = []
    engine = CTranslate2Engine(model, "float32", workers=2)
    together = engine.decode(sources, DecodeOptions(batch_size=3), 2, progress=counts.append)
    assert [result.tokens for result in together[:6]] == alone
    assert sum(counts) == len(sources)
    assert max(counts) <= 3
    assert engine.decode([], DecodeOptions()) == []


def test_every_sentence_has_its_own_limit():
    # Guards: a limit taken from the longest sentence, and EOS counted differently from our own
    # loop.
    model = decisive_model(tie_embeddings=False)
    with torch.no_grad():
        model.output.weight[model.config.end_token] = 0.0
    options = DecodeOptions(limit_ratio=1.0, limit_extra=2)
    sources = some_sources()
    expected = decode_corpus(EagerStepModel(model), sources, options)
    found = CTranslate2Engine(model, "float32").decode(sources, options)
    assert [len(result.tokens) for result in found] == [len(one.tokens) for one in expected]
    assert any(not result.ended for result in found)


def test_symbols_that_are_never_written():
    # Guards: padding, start or mask symbols in a translation because the model likes them.
    model = decisive_model(tie_embeddings=False)
    config = model.config
    never = [config.pad_token, config.start_token, config.mask_token]
    with torch.no_grad():
        model.output.weight[never] *= 10.0
    for beam in (1, 4):
        found = CTranslate2Engine(model, "float32").decode(some_sources(), DecodeOptions(), beam)
        assert not {token for result in found for token in result.tokens} & {
            *never,
            config.end_token,
        }


def test_nothing_stays_on_the_disk(tmp_path, monkeypatch):
    # Guards: a copy of every teacher left in /tmp, and weights changed by their conversion.
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    model = decisive_model()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    engine = CTranslate2Engine(model)
    assert list(tmp_path.iterdir()) == []
    assert engine.decode([[5, 6]], DecodeOptions())[0].tokens is not None
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_models_it_cannot_express():
    # Guards: a part of the model silently left out.
    model = decisive_model()
    model.extra = nn.Linear(2, 2)
    with pytest.raises(UsageError, match=r"no place for extra\.bias .*eager"):
        CTranslate2Engine(model)
    with pytest.raises(UsageError, match="no place for norm sandwich"):
        CTranslate2Engine(decisive_model(norm="sandwich"))
    with pytest.raises(UsageError, match="no encoder"):
        CTranslate2Engine(decisive_model(encoder_layers=0))


def test_missing_package_is_named(monkeypatch):
    # Guards: an ImportError where a line with the extra's name is due.
    monkeypatch.setattr(engine_module, "ctranslate2", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'multistride\[bench\]'") as caught:
        CTranslate2Engine(decisive_model())
    assert caught.value.exit_code == 3
    assert engine_module.installed_version() is None


def test_constraints_are_refused():
    # Guards: rules that this engine silently ignores.
    engine = CTranslate2Engine(decisive_model(), "float32")
    for rule in ({"min_tokens": 3}, {"banned_tokens": (7,)}, {"prefix": "a"}, {"stop": ("a",)}):
        with pytest.raises(UsageError, match="choose the engine eager"):
            engine.decode(some_sources(), DecodeOptions.made(**rule))
