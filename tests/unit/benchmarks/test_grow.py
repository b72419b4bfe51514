"""A grown model says what the model it was made from says, at every K and in every mode."""

import importlib.util
from pathlib import Path

import pytest
import torch

from multistride.data.vocab import train_vocabulary
from multistride.decode.corpus import decode_corpus, source_batch
from multistride.decode.options import DecodeOptions
from multistride.engines.eager import EagerStepModel
from multistride.errors import UsageError
from multistride.groups import equal_sizes, teacher_forced
from multistride.model.config import TransformerConfig
from multistride.model.transformer import Transformer

PATH = Path(__file__).parents[3] / "benchmarks/grow.py"
specification = importlib.util.spec_from_file_location("grow", PATH)
grow = importlib.util.module_from_spec(specification)
specification.loader.exec_module(grow)

VOCABULARY, LARGER = 40, 60


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(7)
    sizes = {
        "hidden_size": 32,
        "feedforward_size": 48,
        "heads": 4,
        "encoder_layers": 2,
        "decoder_layers": 1,
    }
    config = TransformerConfig(
        vocabulary_size=VOCABULARY, max_positions=32, group_sizes=(1, 2, 4), markov_rank=4, **sizes
    )
    transformer = Transformer(config).eval()
    with torch.no_grad():
        for parameter in transformer.parameters():
            parameter.mul_(1.5).add_(0.05 * torch.randn_like(parameter))
        transformer.reach.beyond_one.weight[0] = 0
        transformer.markov.following.normal_()
    return transformer


@pytest.fixture(scope="module")
def larger(model):
    return grow.grown(model, layers=3, vocabulary_size=LARGER)


@pytest.fixture(scope="module")
def sources():
    generator = torch.Generator().manual_seed(5)
    lengths = torch.randint(1, 12, (40,), generator=generator).tolist()
    return [
        torch.randint(5, VOCABULARY, (length,), generator=generator).tolist() for length in lengths
    ]


def logits(model, sources, group_size):
    source, lengths = source_batch(sources, model.config)
    target_lengths = torch.full((len(sources),), 6)
    target = torch.randint(
        5, VOCABULARY, (len(sources), 6), generator=torch.Generator().manual_seed(1)
    )
    sizes = equal_sizes(target_lengths, group_size)
    slots = teacher_forced(target, target_lengths, sizes, model.config.start_token)[0]
    with torch.inference_mode():
        return model.project(model(source, lengths, slots))


@pytest.mark.parametrize("group_size", [1, 2, 4])
def test_logits_are_equal(model, larger, sources, group_size):
    # Guards: a factor of the width forgotten, heads mixed up, an added layer that adds something.
    small, large = logits(model, sources, group_size), logits(larger, sources, group_size)
    assert (small - large[..., :VOCABULARY]).abs().max() < 1e-4
    assert large[..., VOCABULARY:].max() < -24
    assert small.std() > 0.5, "a model that says nothing"


@pytest.mark.parametrize(
    "choices", [{"group_size": 1}, {"group_size": 4}, {"group_size": 4, "mode": "exact"}], ids=str
)
def test_outputs_are_equal(model, larger, sources, choices):
    # Guards: an entry of the vocabulary that nobody uses and that wins all the same.
    options = DecodeOptions(**choices)
    small = [
        hypothesis.tokens for hypothesis in decode_corpus(EagerStepModel(model), sources, options)
    ]
    large = [
        hypothesis.tokens for hypothesis in decode_corpus(EagerStepModel(larger), sources, options)
    ]
    assert small == large
    assert len({len(tokens) for tokens in small}) > 2


def test_no_matrix_is_cheaper_than_a_trained_one(larger):
    # Guards: zeros, which an engine might skip and which have no scale in int8.
    for name, parameter in larger.named_parameters():
        if parameter.dim() == 2 and name.split(".")[0] not in ("reach", "markov", "position"):
            assert (parameter != 0).float().mean() > 0.99, name


def test_texts_have_the_same_tokens():
    # Guards: new entries of the vocabulary that are found in a text.
    vocabulary = train_vocabulary(["a small text <unused300>"], 300, "bpe")
    grown = grow.grown_vocabulary(vocabulary, 400)
    texts = ["a small text", "<unused300> </s>"]
    assert len(grown) == 400
    assert grown.encode(texts) == vocabulary.encode(texts)


def test_what_cannot_be_grown():
    # Guards: a model that says something else than the one it was made from.
    sizes = {"vocabulary_size": 20, "hidden_size": 16, "feedforward_size": 16, "heads": 2}
    with pytest.raises(UsageError, match="norm post"):
        grow.grown(Transformer(TransformerConfig(norm="post", **sizes)))
    with pytest.raises(UsageError, match="a model cannot shrink"):
        grow.grown(Transformer(TransformerConfig(**sizes)), layers=2)
