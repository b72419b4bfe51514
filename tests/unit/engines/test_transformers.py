"""transformers runs our weights: the same tokens as the eager engine at K=1."""

import pytest
import torch

from multistride.baselines import transformers as engine_module
from multistride.baselines.transformers import TransformersEngine
from multistride.decode.corpus import decode_corpus
from multistride.decode.options import DecodeOptions
from multistride.engines.eager import EagerStepModel
from multistride.errors import MissingExtraError, UsageError
from multistride.model.config import TransformerConfig
from multistride.model.transformer import Transformer

pytest.importorskip("transformers")
VOCABULARY = 40


def decisive_model(**changes):
    sizes = {
        "vocabulary_size": VOCABULARY,
        "hidden_size": 32,
        "feedforward_size": 48,
        "heads": 2,
        "max_positions": 24,
    }
    depths = {"encoder_layers": 2, "decoder_layers": 1, "max_group_size": 4, "group_sizes": (1, 4)}
    torch.manual_seed(3)
    model = Transformer(TransformerConfig(**{**sizes, **depths, **changes})).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 1:
                parameter.add_(0.05 * torch.randn_like(parameter))
            elif "embedding" not in name:
                parameter.mul_(4.0)
        model.reach.beyond_one.weight[1:].normal_()
    return model


def some_sources(count=12):
    generator = torch.Generator().manual_seed(5)
    lengths = torch.randint(1, 9, (count,), generator=generator).tolist()
    return [
        torch.randint(5, VOCABULARY, (length,), generator=generator).tolist() for length in lengths
    ]


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"norm": "post"},
        {"activation": "gelu"},
        {"tie_embeddings": False},
        {"positions": "learned"},
    ],
    ids=str,
)
def test_greedy_equals_eager_token_for_token(changes):
    # Guards: a baseline that is another model, or that pads, starts or ends sentences in another
    # way.
    model, sources = decisive_model(**changes), some_sources()
    never = {model.config.pad_token, model.config.start_token, model.config.mask_token}
    found = TransformersEngine(model).greedy(sources, 20)
    expected = decode_corpus(
        EagerStepModel(model), sources, DecodeOptions(limit_ratio=0.01, limit_extra=20)
    )
    compared = 0
    for one, other in zip(expected, found, strict=True):
        if not never & set(other):  # ours never writes these; generate is left as fast as it is
            assert other == [
                *one.tokens,
                *([model.config.end_token] if one.ending == "end" else []),
            ]
            compared += 1
    assert compared >= 3


def test_another_function_is_refused():
    # Guards: a speed measured against a model that says something else.
    model = decisive_model()
    converted = engine_module._converted(model)
    with torch.no_grad():
        converted.model.decoder.layers[0].fc1.weight.add_(0.1)
    with pytest.raises(UsageError, match="its logits are"):
        engine_module._compare(model, converted)
    with pytest.raises(UsageError, match="no encoder"):
        TransformersEngine(decisive_model(encoder_layers=0))


def test_missing_package_is_named(monkeypatch):
    # Guards: an ImportError where a line with the extra's name is due.
    monkeypatch.setattr(engine_module, "transformers", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'multistride\[bench\]'"):
        TransformersEngine(decisive_model())
