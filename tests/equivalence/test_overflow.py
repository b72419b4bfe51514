"""A text that overflows is refused, and leaves nothing behind for those after it."""

import gc
import math

import pytest
import torch
from layouts import LAYOUTS
from tiny_models import small_model

from multistride.decode.corpus import decode_corpus
from multistride.decode.options import DecodeOptions
from multistride.engines.eager import EagerStepModel
from multistride.engines.gpu.engine import GpuStepModel
from multistride.engines.int8.engine import quantise
from multistride.errors import DataError
from multistride.model.config import TransformerConfig
from multistride.model.transformer import Transformer

SIZES = {"hidden_size": 64, "feedforward_size": 128, "heads": 4, "tie_embeddings": False}
GROUPS = {"max_group_size": 4, "group_sizes": (1, 2, 4)}
BAD = 7
HEALTHY = [[5, 6, 8], [9, 10, 11, 12, 13], [6, 6]]


def opened(kind, model, monkeypatch):
    if kind == "eager":
        return EagerStepModel(model)
    if kind == "gpu":
        return GpuStepModel(model)
    if kind == "onnxruntime":
        monkeypatch.setenv("MULTISTRIDE_KERNELS", "onnxruntime")
    return quantise(model, 1)


def causal():
    """A model of Llama's layout that the native kernels run, too; it never writes the bad token."""
    torch.manual_seed(3)
    sizes = {
        **LAYOUTS["llama, native"],
        **SIZES,
        "vocabulary_size": 40,
        "never_written": (BAD,),
    } | GROUPS
    return Transformer(TransformerConfig(**{**sizes, "encoder_layers": 0})).eval()


def texts(engine, sources, options):
    found = [decode_corpus(engine, [source], options)[0].tokens for source in sources]
    gc.collect()
    return found


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")  # rounding what is damaged
@pytest.mark.parametrize("damage", [math.nan, math.inf])
@pytest.mark.parametrize(
    ("kind", "translates"),
    [("eager", True), ("gpu", True)]  # int8 refuses such a translation model at once
    + [(kind, False) for kind in ("eager", "gpu", "onnxruntime", "native")],
)
def test_a_text_that_overflows_spoils_no_later_one(kind, damage, translates, monkeypatch):
    # Guards: memory that is lent again with what an overflow left there, where attention gives it
    # no weight: a server that refuses every text until it is restarted.
    model = small_model(**SIZES) if translates else causal()
    table = model.source_embedding if translates else model.target_embedding
    with torch.no_grad():
        table.weight[BAD] = damage
    engine = opened(kind, model, monkeypatch)
    options = [
        DecodeOptions(group_size=size, max_tokens=12, batch_size=4, **choices)
        for size, choices in ((1, {}), (4, {}), (4, {"temperature": 1.0, "seed": 3}))
    ]
    before = [texts(engine, HEALTHY, each) for each in options]
    for each in options:
        for length in (2, 9, 20):
            with pytest.raises(DataError, match="scores that are not numbers"):
                decode_corpus(engine, [[BAD] * length], each)
    gc.collect()
    assert [texts(engine, HEALTHY, each) for each in options] == before
