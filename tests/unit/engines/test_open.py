"""Engines by name."""

import logging
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

from multistride import device
from multistride.engines.int8 import runtime
from multistride.engines.int8 import support as int8
from multistride.engines.int8.native import library
from multistride.engines.interface import announce
from multistride.engines.names import ENGINES
from multistride.engines.open import open_engine
from multistride.errors import MissingExtraError, UsageError
from multistride.model.config import TransformerConfig
from multistride.model.transformer import Transformer


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(1)
    sizes = {
        "hidden_size": 16,
        "feedforward_size": 32,
        "heads": 2,
        "encoder_layers": 1,
        "decoder_layers": 1,
    }
    return Transformer(TransformerConfig(vocabulary_size=20, **sizes)).eval()


def test_an_unknown_name_is_refused_with_those_allowed(model):
    # Guards: a mistyped engine taken for the usual one.
    with pytest.raises(
        UsageError, match=rf"engine 'eagre' was asked for; allowed are {', '.join(ENGINES)}:"
    ):
        open_engine(model, "eagre")


def test_eager_says_what_it_is(model):
    # Guards: results that name another engine or precision than the one that ran.
    engine = open_engine(model, "eager")
    assert (engine.name, engine.precision, engine.model) == ("eager", "float32", model)


def test_an_engine_that_is_not_installed_is_named_with_its_extra(model, monkeypatch, caplog):
    # Guards: a traceback out of an import, or an engine that is silently another one.
    monkeypatch.setattr(int8, "installed", lambda: False)
    with pytest.raises(MissingExtraError, match=r"pip install 'multistride\[int8\]'") as caught:
        open_engine(model, "int8")
    assert caught.value.exit_code == 3
    caplog.set_level(logging.INFO)
    engine = open_engine(model, "auto")
    assert engine.name == "eager"
    announce(engine)
    [line] = caplog.messages
    assert line.startswith(
        "engine: eager, because the engine int8 was asked for and ONNX Runtime is not installed"
    )


def test_auto_says_what_int8_has_no_place_for(caplog):
    # Guards: "int8 was asked for" where nobody did, and advice to choose what was chosen.
    adapted = TransformerConfig(
        vocabulary_size=20, hidden_size=16, heads=2, encoder_layers=0, adapter={"layers": 1}
    )
    with pytest.raises(UsageError, match=r"\): choose --engine eager$"):
        open_engine(Transformer(adapted), "int8")
    caplog.set_level(logging.INFO)
    announce(open_engine(Transformer(adapted), "auto"))
    assert caplog.messages == [
        "engine: eager, because the engine int8 has no place for adapters on mask slots "
        "(adapter.rank 64)"
    ]


def test_an_old_onnx_runtime_is_refused(model, monkeypatch):
    # Guards: a graph that an old library cannot read, and its message of many lines.
    monkeypatch.setenv("MULTISTRIDE_KERNELS", "onnxruntime")
    monkeypatch.setitem(sys.modules, "onnxruntime", SimpleNamespace(__version__="1.24.1"))
    monkeypatch.setattr(int8, "installed", lambda: True)
    runtime.onnxruntime.cache_clear()
    with pytest.raises(
        MissingExtraError, match=r"needs ONNX Runtime 1.25 or later, and 1.24.1 is installed"
    ):
        open_engine(model, "int8")


def test_native_kernels_do_without_onnx_runtime():
    # Guards: a tenth of a second and 20 MB at every start.
    pytest.importorskip("onnxruntime", reason="the extra [int8] is not installed")
    if library.missing() is not None:
        pytest.skip(str(library.missing()))
    command = [sys.executable, "-X", "importtime", "-m", "multistride", "translate"]
    for _ in range(2):  # the first start may make what the second one reads
        ended = subprocess.run(
            [*command, "--engine", "int8"],
            input="Hello.\n",
            capture_output=True,
            text=True,
            check=True,
            timeout=300,
        )
    assert ended.stdout.strip()
    imported = {line.rpartition("|")[2].strip() for line in ended.stderr.splitlines()}
    assert "numpy" in imported
    assert not {"onnxruntime", "torch"} & imported


def test_auto_takes_int8_where_it_runs(model, caplog, monkeypatch):
    # Guards: an auto that says nothing, says it twice or before it decodes (then an error takes two
    # lines), or takes the slow engine.
    pytest.importorskip("onnxruntime", reason="the extra [int8] is not installed")
    monkeypatch.setenv("MULTISTRIDE_KERNELS", "onnxruntime")  # the native ones are named too
    caplog.set_level(logging.INFO)
    engine = open_engine(model, "auto")
    assert engine.name == "int8"
    assert not caplog.messages
    announce(engine)
    announce(engine)
    announce(open_engine(model, "int8"))
    assert caplog.messages == ["engine: int8, int8 weights, int8 activations"]


@pytest.mark.parametrize("count", [0, -1, 100_000])
def test_threads_that_are_not_there(count):
    # Guards: more threads than CPUs, which make everything slower without a word.
    with pytest.raises(
        UsageError, match=rf"--threads is {count}; this process may use \d+ CPUs: give 1 to \d+"
    ):
        device.set_threads(count)
