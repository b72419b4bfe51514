"""The engines on ONNX Runtime run the layouts of converted models: Llama, Qwen3, OLMo 2, GPT-NeoX,
GPT-2, Marian, BART, Mistral, Gemma 2 and 3, Phi-3, T5."""

import numpy as np
import pytest
import torch
from layouts import LAYOUTS, NATIVE_LAYOUTS, both, moved

from multistride.cpu import multiplies_int8
from multistride.decode.corpus import decode_corpus
from multistride.decode.options import DecodeOptions
from multistride.errors import UsageError

pytest.importorskip("onnxruntime", reason="ONNX Runtime is not installed")
from multistride.engines.int8 import engine as int8
from multistride.engines.int8 import onnx_graph
from multistride.engines.int8.native import library
from multistride.engines.int8.onnx_graph import Graph, Quantised, Rows, floats


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


INT4 = pytest.mark.skipif(not multiplies_int8(), reason="int4 needs VNNI")


@pytest.mark.parametrize(
    ("form", "most"), [("int8-rows", 0.1), pytest.param("int4", 0.3, marks=INT4)]
)
@pytest.mark.parametrize("name", ["llama", "gpt2", "marian"])
def test_every_form_of_weights_is_near_the_reference(name, form, most):
    # Guards: halves of bytes that change places, zero points of other blocks.
    model = moved(name)
    for expected, found in both(model, int8.quantise(model, 1, form)):
        assert float((found - expected).abs().mean() / expected.abs().mean()) < most


@pytest.mark.parametrize(
    ("name", "form"),
    [
        *((name, "int8") for name in LAYOUTS),
        ("llama", "int8-rows"),
        pytest.param("llama", "int4", marks=INT4),
    ],
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
