"""int8 graphs that are kept between processes."""

import os
import shutil
import subprocess
import sys

import pytest
import torch

import multistride
from multistride.engines.cache import cache_directory
from multistride.engines.int8 import kept
from multistride.errors import DataError
from multistride.model.weights import load_model
from multistride.shipped import directory

pytest.importorskip("onnxruntime", reason="the extra [int8] is not installed")

TEXTS = ["thunder", "kitchen", "a"]


@pytest.fixture
def model(tmp_path, monkeypatch):
    """A model directory of one's own, and an empty cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    place = tmp_path / "model"
    shutil.copytree(directory("english-phonemes"), place)
    return place


def entries(model):
    return sorted((model.parent / "cache" / "multistride" / "int8").iterdir())


def refuse(*_):
    raise AssertionError("the weights in float32 were read")


def tokens(opened):
    return [result.tokens for result in opened.translate(TEXTS, group_size=4)]


def test_a_second_start_reads_no_float32_weights(model, monkeypatch):
    # Guards: a start that takes as long and as much memory as the first; weights held for nothing.
    first = multistride.load(model, engine="int8")
    expected = tokens(first)
    with monkeypatch.context() as patched:
        patched.setattr(kept, "load_model", refuse)
        again = multistride.load(model, engine="int8")
        assert tokens(again) == expected
        sampled = again.translate(TEXTS, group_size=4, temperature=1.0)  # reads the Markov head
        assert all(result.tokens for result in sampled)
    pair = [(TEXTS[0], first.translate(TEXTS[:1])[0].text)]
    assert again.score(pair) == multistride.load(model, engine="eager").score(pair)
    assert len(entries(model)) == 1


def test_a_damaged_or_missing_graph_is_made_again(model):
    # Guards: words from broken weights, or an error nobody can do anything about.
    expected = tokens(multistride.load(model, engine="int8"))
    [entry] = entries(model)
    for name in ("encoder.onnx", "decoder.onnx", "weights.bin"):
        content = bytearray((entry / name).read_bytes())
        content[len(content) // 2] ^= 1
        (entry / name).write_bytes(content)
    opened = multistride.load(model, engine="int8")
    (entry / "chained.onnx").unlink(missing_ok=True)  # removed after it was opened
    (entry / "greedy.onnx").unlink()
    assert tokens(opened) == expected
    (entry / "int8.json").write_text("{")
    assert tokens(multistride.load(model, engine="int8")) == expected


def test_an_entry_that_cannot_be_read_is_made_anew(model, monkeypatch):
    # Guards: every start as slow as the first, since the old entry was taken for somebody's files.
    expected = tokens(multistride.load(model, engine="int8"))
    [entry] = entries(model)
    (entry / "int8.json").write_text('{"format": 1}')
    assert tokens(multistride.load(model, engine="int8")) == expected
    monkeypatch.setattr(kept, "load_model", refuse)
    assert tokens(multistride.load(model, engine="int8")) == expected


def test_graphs_share_their_weights(model):
    # Guards: weights that are stored, and held in memory, once for each graph.
    multistride.load(model, engine="int8")
    [entry] = entries(model)
    sizes = {path.name: path.stat().st_size for path in entry.iterdir()}
    graphs = sum(size for name, size in sizes.items() if name.endswith(".onnx"))
    assert graphs < sizes["weights.bin"] < (model / "model.safetensors").stat().st_size


def test_other_weights_have_graphs_of_their_own(model):
    # Guards: a model that was trained further and still writes what it wrote before.
    opened = multistride.load(model, engine="int8")
    before = tokens(opened)
    weights, vocabulary = load_model(model)
    with torch.no_grad():
        weights.decoder_norm.weight.mul_(-1)
    multistride.model.weights.save_model(model, weights, vocabulary, {}, "")
    assert tokens(multistride.load(model, engine="int8")) != before
    assert len(entries(model)) == 2
    with pytest.raises(DataError, match="has other weights than when it was opened"):
        opened.score([("a", "AH0")])


def test_a_cache_that_cannot_be_written_is_done_without(model):
    # Guards: no translation on a machine without a home directory.
    (model.parent / "cache").write_text("a file")
    assert all(tokens(multistride.load(model, engine="int8")))


def test_the_least_used_entries_make_room(model, monkeypatch):
    # Guards: a cache that grows for ever, or that throws away what is in use.
    multistride.load(model, engine="int8")
    [first] = entries(model)
    os.utime(first / "int8.json", (1, 1))
    monkeypatch.setattr(kept, "MOST", 0)
    config = (model / "config.json").read_text()
    (model / "config.json").write_text(config + "\n")
    multistride.load(model, engine="int8")
    [second] = entries(model)
    assert second != first


def test_a_user_without_a_home_has_no_cache(monkeypatch):
    # Guards: RuntimeError in containers that run as a user nobody knows.
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setattr("os.path.expanduser", lambda path: path)
    place = cache_directory()
    with pytest.raises(OSError, match=r"Not a directory|File exists"):
        place.mkdir(parents=True, exist_ok=True)
    monkeypatch.setenv("XDG_CACHE_HOME", "/given")
    assert str(cache_directory()) == "/given/multistride"


def test_onnx_runtime_reports_nothing(tmp_path):
    # Guards: telemetry of ONNX Runtime 1.32 (a number of this machine, sent over the network).
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path)}
    environment.pop("ORT_DISABLE_TELEMETRY", None)
    code = "import multistride.engines.int8, onnxruntime"
    subprocess.run([sys.executable, "-c", code], env=environment, check=True, timeout=60)
    assert list(tmp_path.rglob("*")) == []
