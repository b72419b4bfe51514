"""Translating without PyTorch."""

import json
import os
import shutil
import subprocess
import sys

import pytest

import multistride
from multistride import light
from multistride.baselines.export import export
from multistride.cli.light import light_translator
from multistride.cli.options import Cluster, Lines, Machine
from multistride.cpu import default_threads
from multistride.decode.options import DecodeOptions
from multistride.engines.int8.entries import files_of, place_of
from multistride.engines.int8.native import library
from multistride.model.directory import weights_digest
from multistride.shipped import directory

pytest.importorskip("onnxruntime", reason="the extra [int8] is not installed")

TEXTS = ["kitchen", "", "thunderstorm", "a", "onomatopoeia", " ", "x" * 2000]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A model directory whose graphs are kept."""
    place = tmp_path_factory.mktemp("light") / "model"
    shutil.copytree(directory("english-phonemes"), place)
    multistride.load(place, engine="int8").translate(["a"])
    return place


def opened(model, size="1", lines=None, machine=None, cluster=None, **choices):
    return light_translator(
        model,
        lines or Lines(),
        size,
        DecodeOptions(**choices),
        machine or Machine(device="cpu", engine="int8"),
        cluster or Cluster(),
    )


@pytest.mark.parametrize("size", [1, 2, 4])
@pytest.mark.parametrize("choices", [{}, {"batch_size": 2}, {"max_tokens": 3}])
def test_the_texts_are_those_of_the_ordinary_translator(model, size, choices):
    # Guards: a shorter way that writes something else: other limits, orders, endings or scores.
    expected = multistride.load(model, engine="int8").translate(TEXTS, group_size=size, **choices)
    translator, plan = opened(model, str(size), **choices)
    assert translator.written(TEXTS, plan) == expected
    lines = [text.encode() + b"\n" for text in TEXTS] + [b"\xff\n"]
    *same, bad = translator.translate_lines(lines, plan, buffer=3)
    assert same == expected
    assert bad.problem == "it is not valid UTF-8"


@pytest.mark.parametrize("kernels", ["onnxruntime", "native"])
def test_groups_are_searched_where_the_ordinary_translator_does(
    model, kernels, monkeypatch, tmp_path
):
    # Guards: a default of the model that only one of the two knows, or that native kernels alone
    # are quick at and others take over.
    if kernels == "native" and library.missing() is not None:
        pytest.skip(str(library.missing()))
    monkeypatch.setenv("MULTISTRIDE_KERNELS", kernels)
    searching = tmp_path / "searching"
    shutil.copytree(model, searching)
    config = json.loads((searching / "config.json").read_text())
    (searching / "config.json").write_text(json.dumps({**config, "group_beam": 4}))
    words = ["colonel", "worcestershire", "choir", "rhythm", "yacht", "isthmus", "victuals"] * 2
    texts = [word[place:] + word for place, word in enumerate(words)]
    ordinary = multistride.load(searching, engine="int8")
    written = {
        beam: ordinary.translate(texts, group_size=6, group_beam=beam) for beam in (None, 1, 4)
    }
    assert written[1] != written[4]
    assert written[None] == written[4 if kernels == "native" else 1]
    for beam in (1,) if kernels == "onnxruntime" else (1, 4):
        translator, plan = opened(searching, "6", group_beam=beam)
        assert translator.written(texts, plan) == written[beam]
    translator, plan = opened(searching, "6")
    assert translator.written(texts, plan) == written[None]
    if kernels == "onnxruntime":
        assert opened(searching, "6", group_beam=4) is None
    assert opened(searching, "1", group_beam=4) is None


@pytest.mark.parametrize(
    "choices",
    [
        {"mode": "exact"},
        {"beam": 2},
        {"temperature": 0.5},
        {"prefix": "K"},
        {"stop": ["K"]},
        {"min_tokens": 3},
        {"max_tokens": 100_000},
        {"size": "99"},
        {"size": "auto"},
        {"size": "none"},
        {"machine": Machine(device="cpu", engine="eager")},
        {"machine": Machine(device="cuda", engine="int8")},
        {"machine": Machine(device="cpu", threads=10_000)},
        {"cluster": Cluster(workers=2)},
        {"lines": Lines(stream=True)},
        {"lines": Lines(source="a", output="b")},
    ],
    ids=str,
)
def test_what_else_is_asked_for_is_the_ordinary_ones_concern(model, choices):
    # Guards: options that are ignored, and mistakes that nobody names.
    assert opened(model, **choices) is None
    assert opened(model) is not None


def test_a_gpu_may_be_wanted(model, monkeypatch, tmp_path):
    # Guards: translating on the CPU beside a GPU that --device auto would have taken.
    monkeypatch.setattr(light, "_may_have_gpu", lambda: True)
    assert opened(model, machine=Machine()) is None
    monkeypatch.setattr(light, "_may_have_gpu", lambda: False)
    assert opened(model, machine=Machine()) is not None


def test_only_graphs_of_these_weights_are_used(model, tmp_path, monkeypatch):
    # Guards: damaged graphs, graphs of other weights or directories that hold no model.
    monkeypatch.setenv("MULTISTRIDE_KERNELS", "onnxruntime")  # the native ones read no graph
    place = place_of(model, weights_digest(model), "int8")
    assert "encoder.onnx" in files_of(place)
    kept = (place / "greedy.onnx").read_bytes()
    (place / "greedy.onnx").write_bytes(kept[:-1] + b"?")
    assert opened(model) is None
    (place / "greedy.onnx").unlink()
    assert opened(model) is None
    (place / "greedy.onnx").write_bytes(kept)
    assert opened(model) is not None
    changed = tmp_path / "changed"
    shutil.copytree(model, changed)
    weights = changed / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"?")
    for other in (changed, tmp_path):
        assert opened(other) is None


@pytest.mark.parametrize("kernels", ["onnxruntime", "native"])
def test_exports_are_translated_alike(model, tmp_path, monkeypatch, kernels):
    # Guards: an export that needs PyTorch, or is used although a file of it is damaged.
    if kernels == "native" and library.missing() is not None:
        pytest.skip(str(library.missing()))
    monkeypatch.setenv("MULTISTRIDE_KERNELS", kernels)
    place = tmp_path / "exported"
    export(model, "int8", place)
    expected = multistride.load(place, engine="int8").translate(TEXTS, group_size=2)
    translator, plan = opened(place, "2")
    assert translator.written(TEXTS, plan) == expected
    assert opened(place, machine=Machine(device="cpu", engine="int4")) is None
    read = {"onnxruntime": ("weights.bin", "encoder.onnx"), "native": ("native.bin",)}
    for name in ("config.json", "tokenizer.json", *read[kernels]):
        content = (place / name).read_bytes()
        (place / name).write_bytes(content + b"\n")
        assert opened(place) is None, name
        (place / name).write_bytes(content)
    assert opened(place) is not None


def test_translating_lines_imports_no_torch(model):
    # Guards: an import that costs most of the start, and half of the memory.
    probe = (
        "import sys; from multistride.cli.console import leave; import multistride.cli as c\n"
        "import multistride.cli.console as console\n"
        "def told(code): print('torch' in sys.modules, code); sys.stdout.flush()\n"
        "c.leave = console.leave = told\n"
        f"sys.argv = ['multistride', 'translate', '--model', {str(model)!r}, '--device', 'cpu']\n"
        "c.main()\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", probe], input=b"kitchen\n", capture_output=True, check=False
    )
    assert result.stdout.split(b"\n")[1] == b"False 0", result.stderr.decode()
    assert result.stderr.startswith(b"engine: int8, ")


def test_threads_are_those_that_pytorch_takes(monkeypatch):
    # Guards: two threads on one core, a setting that is ignored.
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert default_threads() == 3
    monkeypatch.delenv("OMP_NUM_THREADS")
    probe = "import torch; print(torch.get_num_threads())"
    expected = subprocess.run([sys.executable, "-c", probe], capture_output=True, check=True)
    assert default_threads() == int(expected.stdout)
    assert os.cpu_count() is None or default_threads() <= os.cpu_count()
