"""What is calibrated: every group size beyond 1, of translators."""

import pytest
import torch
from typer.testing import CliRunner

from multistride.cli import app
from multistride.data.vocab import train_vocabulary
from multistride.errors import DataError, UsageError
from multistride.evaluate.calibrate import calibrate
from multistride.model.config import TransformerConfig
from multistride.model.transformer import Transformer
from multistride.model.weights import save_model
from multistride.translator import Translator

SIZES = {"hidden_size": 16, "feedforward_size": 24, "heads": 2, "decoder_layers": 1}


def saved(place, **choices):
    torch.manual_seed(1)
    vocabulary = train_vocabulary(["a b c d e"] * 3, 300, "bpe")
    config = TransformerConfig(vocabulary_size=len(vocabulary), **{**SIZES, **choices})
    save_model(place, Transformer(config), vocabulary, {}, "card")
    return place


@pytest.mark.parametrize("sizes", [(1, 2, 4), (2, 4), (4,)])
def test_every_group_size_is_calibrated(tmp_path, sizes):
    # Guards: the first size of a model that was not trained for K=1 left out, without a word.
    place = saved(tmp_path / "model", encoder_layers=1, group_sizes=sizes)
    source = tmp_path / "source"
    source.write_text("a b c d e\n" * 12)
    measured = calibrate(Translator.load(place, engine="eager"), place, source, source)
    assert {row.group_size for row in measured.places} == set(sizes) - {1}


def test_a_causal_model_is_refused_at_once(tmp_path):
    place = saved(tmp_path / "model", encoder_layers=0, group_sizes=(1, 2))
    (tmp_path / "source").write_text("a b\n" * 12)
    arguments = ["calibrate", "--model", str(place), "--source", str(tmp_path / "source")]
    with pytest.raises(UsageError, match="is a causal model, and what is calibrated are"):
        CliRunner().invoke(app, arguments, catch_exceptions=False)


@pytest.mark.parametrize("paired", [False, True])
def test_a_line_that_is_not_utf8_is_named(tmp_path, paired):
    # Guards: it was calibrated on with replacement characters, or left out, without a word.
    place = saved(tmp_path / "model", encoder_layers=1, group_sizes=(1, 2))
    source = tmp_path / "source"
    source.write_bytes(b"a b c d e\n" * 12 + b"a \xff c\n")
    translator = Translator.load(place, engine="eager")
    with pytest.raises(DataError, match="line 13: invalid utf-8"):
        calibrate(translator, place, source, source if paired else None)
