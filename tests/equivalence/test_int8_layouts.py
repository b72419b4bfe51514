"""The engines on ONNX Runtime run the layouts of converted models: Llama, Qwen3, OLMo 2, GPT-NeoX,
GPT-2, Marian, BART, Mistral, Gemma 2 and 3, Phi-3, T5."""

import numpy as np
import pytest
import torch

from multistride.decode.corpus import decode_corpus
from multistride.decode.options import DecodeOptions
from multistride.engines.eager import EagerStepModel
from multistride.errors import UsageError
from multistride.groups import PADDING_GROUP, Slots
from multistride.model.config import TransformerConfig
from multistride.model.transformer import Transformer

pytest.importorskip("onnxruntime", reason="ONNX Runtime is not installed")
from multistride.engines.int8 import engine as int8
from multistride.engines.int8 import onnx_graph
from multistride.engines.int8.native import library
from multistride.engines.int8.onnx_graph import Graph, Quantised, Rows, floats

SIZES = {"vocabulary_size": 40, "hidden_size": 32, "feedforward_size": 48, "decoder_layers": 2}
CAUSAL = {"encoder_layers": 0, "start_symbol": False, "max_positions": 96, "never_written": ()}
ROTARY = {"norm_kind": "rms", "positions": "rotary", "activation": "silu"}
BARE = {"feedforward_bias": False, "gated_feedforward": True, "scale_embeddings": False}
NATIVE = {"hidden_size": 64, "feedforward_size": 128, "heads": 8, "key_value_heads": 2}
NATIVE |= {"head_size": 16}
LAYOUTS = {
    "llama": CAUSAL | ROTARY | BARE | {"heads": 6, "key_value_heads": 2, "head_size": 8}
    | {"attention_bias": "none", "norm_epsilon": 1e-3, "rotary_base": 500.0},
    "llama, all heads": CAUSAL | ROTARY | BARE | {"heads": 4, "attention_bias": "none"},
    "llama, wide heads": CAUSAL | ROTARY | BARE | {"heads": 4, "key_value_heads": 2}
    | {"attention_bias": "none", "head_size": 16},
    "qwen3": CAUSAL | ROTARY | BARE | {"heads": 4, "key_value_heads": 2, "head_size": 16}
    | {"attention_bias": "input", "query_key_norm": True, "tie_embeddings": False},
    "llama, native": CAUSAL | ROTARY | BARE | NATIVE | {"attention_bias": "none"},
    "qwen2, native": CAUSAL | ROTARY | BARE | NATIVE | {"attention_bias": "input"}
    | {"key_value_heads": 4, "rotary_base": 500.0},
    "qwen3, native": CAUSAL | ROTARY | BARE | NATIVE | {"attention_bias": "input"}
    | {"query_key_norm": True, "tie_embeddings": False, "feedforward_bias": True},
    "olmo2": CAUSAL | ROTARY | BARE | {"heads": 4, "key_value_heads": 2, "norm": "output"}
    | {"attention_bias": "none", "query_key_norm": True, "query_key_norm_over": "all"},
    "gpt-neox": CAUSAL | {"heads": 4, "positions": "rotary", "activation": "gelu"}
    | {"parallel_sublayers": True, "rotary_frequencies": (1.0, 0.1, 0.0, 0.0)},
    "yarn": CAUSAL | ROTARY | BARE | {"heads": 4, "attention_bias": "none", "rotary_factor": 1.2},
    "gpt2": CAUSAL | {"heads": 4, "positions": "learned", "activation": "gelu-tanh"}
    | {"scale_embeddings": False},
    "marian": {"heads": 4, "norm": "post", "encoder_layers": 2, "activation": "silu"}
    | {"output_bias": True, "never_written": (0,), "max_positions": 96},
    "bart": {"heads": 4, "norm": "post", "encoder_layers": 2, "activation": "gelu"}
    | {"embedding_norm": True, "positions": "learned", "separate_positions": True}
    | {"output_bias": True, "max_positions": 96},
    "mistral": CAUSAL | ROTARY | BARE | {"heads": 4, "key_value_heads": 2, "attention_window": 3}
    | {"attention_bias": "none"},
    "gemma2": CAUSAL | ROTARY | BARE | {"heads": 4, "key_value_heads": 2, "norm": "sandwich"}
    | {"attention_bias": "none", "attention_window": 4, "window_layers": (0,)}
    | {"attention_cap": 2.0, "output_cap": 3.0},
    "gemma3": CAUSAL | ROTARY | BARE | {"heads": 4, "key_value_heads": 1, "norm": "sandwich"}
    | {"attention_bias": "none", "attention_window": 4, "window_layers": (1,)}
    | {"query_key_norm": True, "window_rotary_base": 50.0, "rotary_base": 1000.0},
    "phi3": CAUSAL | ROTARY | BARE | {"heads": 4, "attention_window": 5}
    | {"attention_bias": "none"},
    "capped": CAUSAL | ROTARY | BARE | {"heads": 4, "attention_cap": 2.0}
    | {"attention_bias": "none"},
    "t5": BARE | {"heads": 4, "head_size": 16, "norm_kind": "rms", "positions": "relative"}
    | {"attention_bias": "none", "activation": "relu", "encoder_layers": 2, "relative_buckets": 8}
    | {"relative_furthest": 10, "gated_feedforward": False, "max_positions": 96},
    "t5, gated": BARE | {"heads": 4, "norm_kind": "rms", "positions": "relative"}
    | {"attention_bias": "none", "activation": "gelu-tanh", "encoder_layers": 2}
    | {"relative_buckets": 8, "relative_furthest": 10, "max_positions": 96},
}  # fmt: skip


WIDE = {"hidden_size": 64, "feedforward_size": 128, "head_size": 16}
"""Sizes that the native kernels take."""


def widened(name):
    """A layout in sizes of the native kernels; shared heads of keys stay shared."""
    layout = LAYOUTS[name] | WIDE | {"heads": 8}
    if layout.get("key_value_heads"):
        layout |= {"key_value_heads": 2}
    if layout.get("rotary_frequencies"):
        layout |= {"rotary_frequencies": (1.0, 0.3, 0.1, 0.03, *(0.0,) * 4)}
    return layout


LAYOUTS |= {f"{name}, wide": widened(name) for name in LAYOUTS if "native" not in name}


NATIVE_LAYOUTS = [name for name in LAYOUTS if name.endswith((", wide", ", native"))]


def moved(name, **further):
    """A model of a layout with every parameter moved, so that no bias or norm hides a mistake."""
    torch.manual_seed(5)
    config = TransformerConfig(**{**SIZES, **LAYOUTS[name]}, group_sizes=(1, 4), **further)
    model = Transformer(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        model.reach.beyond_one.weight[0] = 0
        if hasattr(model.position, "further_start"):
            model.position.further_start.weight[0] = 0
    return model


@pytest.fixture
def in_float32(monkeypatch):
    """Graphs that round nothing."""

    def unrounded(weight, shrink=None):
        matrix = floats(weight) if shrink is None else floats(weight) * shrink
        return Quantised(np.ascontiguousarray(matrix.T), np.ones(len(matrix), np.float32))

    def product(self, rows, weight, bias=None):
        found = self.add("MatMul", rows.integers, self.constant(weight.integers))
        return found if bias is None else self.add("Add", found, self.constant(bias))

    monkeypatch.setenv("MULTISTRIDE_KERNELS", "onnxruntime")
    monkeypatch.setattr(onnx_graph, "quantised", unrounded)
    monkeypatch.setattr(onnx_graph, "blocked", lambda weight, bits: unrounded(weight))
    monkeypatch.setattr(Graph, "rounded", lambda self, rows, rounding: Rows(rows, "", ""))
    monkeypatch.setattr(Graph, "product", product)


def steps():
    """Slots of a few steps: a prompt with padding, one slot, a group, drafts of several groups."""
    generator = torch.Generator().manual_seed(1)
    first = 0
    for width, reach, group in ((5, 1, None), (1, 1, 5), (4, 4, 6), (3, 1, None)):
        shape = 3, width
        position = (1 + first + torch.arange(width)).expand(shape)
        groups = position.clone() if group is None else torch.full(shape, group)
        if first == 0:
            groups[1, :2] = PADDING_GROUP
        token = torch.randint(4, 40, shape, generator=generator)
        yield Slots(token, position, torch.full(shape, reach), groups)
        first += width


def both(model, engine):
    """Logits of the reference and of an engine, step by step, padding left out."""
    source, lengths = None, None
    if model.config.encoder_layers:
        lengths = torch.tensor([6, 3, 1])
        source = torch.randint(4, 40, (3, 6), generator=torch.Generator().manual_seed(2))
    eager = EagerStepModel(model)
    memories = [each.start(source, lengths) for each in (eager, engine)]
    for slots in steps():
        real = slots.group != PADDING_GROUP
        pair = zip((eager, engine), memories, strict=True)
        yield [each.step(slots, memory)[real] for each, memory in pair]


@pytest.mark.parametrize("name", LAYOUTS)
def test_unrounded_graphs_compute_what_the_reference_does(in_float32, name):
    # Guards: heads, halves, biases, norms, tables or groups of keys that belong to another layout.
    model = moved(name)
    for expected, found in both(model, int8.quantise(model, threads=1)):
        torch.testing.assert_close(found, expected, atol=2e-4, rtol=2e-4)


@pytest.mark.parametrize("name", LAYOUTS)
def test_rounded_logits_are_near_the_reference(name):
    # Guards: a scale of a row that multiplies another, or a bias twice.
    model = moved(name)
    for expected, found in both(model, int8.quantise(model, threads=1)):
        assert float((found - expected).abs().mean() / expected.abs().mean()) < 0.1


@pytest.mark.skipif(library.missing() is not None, reason=str(library.missing()))
@pytest.mark.parametrize("form", ["int8", "int8-rows"])
@pytest.mark.parametrize("name", NATIVE_LAYOUTS)
def test_native_logits_are_those_of_the_graphs(monkeypatch, name, form):
    # Guards: a layout that the kernels compute a little otherwise, which rounding would hide.
    model = moved(name)
    native = int8.quantise(model, 1, form)
    assert native.precision.endswith("native kernels")
    of_native = [found for _, found in both(model, native)]
    monkeypatch.setenv("MULTISTRIDE_KERNELS", "onnxruntime")
    graphs = int8.quantise(model, 1, form)
    assert not graphs.precision.endswith("native kernels")
    rounding, own, apart = 0.0, 0.0, 0.0
    for (expected, found), other in zip(both(model, graphs), of_native, strict=True):
        rounding += float((found - expected).abs().mean())
        own += float((other - expected).abs().mean())
        apart += float((found - other).abs().mean())
    assert own < 1.2 * rounding
    if form == "int8-rows" or model.config.encoder_layers:  # ONNX Runtime's blocks round otherwise
        assert apart < 0.5 * rounding


@pytest.mark.parametrize(("form", "most"), [("int8-rows", 0.1), ("int4", 0.3)])
@pytest.mark.parametrize("name", ["llama", "gpt2", "marian"])
def test_every_form_of_weights_is_near_the_reference(name, form, most):
    # Guards: halves of bytes that change places, zero points of other blocks.
    model = moved(name)
    for expected, found in both(model, int8.quantise(model, 1, form)):
        assert float((found - expected).abs().mean() / expected.abs().mean()) < most


@pytest.mark.parametrize(
    ("name", "form"),
    [*((name, "int8") for name in LAYOUTS), ("llama", "int8-rows"), ("llama", "int4")],
)
def test_every_way_writes_the_text_of_one_alone(name, form):
    # Guards: rows that see each other; a single slot summed in another order than several; greedy
    # graphs that forget the output bias.
    model = moved(name, lookahead=True)
    engine = int8.quantise(model, 1, form)
    generator = torch.Generator().manual_seed(3)
    texts = [torch.randint(4, 40, (1 + row,), generator=generator).tolist() for row in range(5)]

    def written(**choices):
        options = DecodeOptions.made(max_tokens=24, **choices)
        found = decode_corpus(engine, texts, options)
        return [(each.tokens, each.log_probabilities) for each in found]

    alone = written(batch_size=1)
    exact = {"mode": "exact", "group_size": 4}
    for choices in (exact, {**exact, "drafts": "text"}, {}):
        for rows in (1, 5):
            assert written(batch_size=rows, **choices) == alone, (choices, rows)
    assert len({tuple(tokens) for tokens, _ in alone}) > 1
    whole = written(batch_size=1, group_size=4)
    assert written(batch_size=5, group_size=4) == whole


def test_what_is_not_supported_is_named():
    # Guards: a model refused without a reason, or after something was written.
    adapter = {"rank": 4, "layers": 1}
    model = moved("llama", adapter=adapter)
    with pytest.raises(UsageError, match=r"int8 .*no place for adapters .*adapter.rank 4"):
        int8.quantise(model)
