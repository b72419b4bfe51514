"""Quality measured during training."""

import logging

import pytest

from multistride.data.batch import PreparedData
from multistride.data.prepare import prepare
from multistride.data.prepare_pairs import PrepareConfig
from multistride.errors import UsageError
from multistride.evaluate.validation import validator
from multistride.model.config import TransformerConfig
from multistride.model.transformer import Transformer


@pytest.fixture
def chinese(tmp_path):
    lines = [f"我今天看了{number}本书" for number in "一二三四五六七八九十"]
    (tmp_path / "text").write_text("\n".join(lines) + "\n", encoding="utf-8")
    sides = {"source": tmp_path / "text", "target": tmp_path / "text"}
    tree = {"train": [sides], "validation": [sides], "vocabulary_size": 300}
    prepare(PrepareConfig.model_validate({"output": tmp_path / "data", **tree}))
    return PreparedData.load(tmp_path / "data")


def test_text_without_blanks_wants_another_tokenizer(chinese, caplog, monkeypatch):
    # Guards: BLEU of 0 in every validation, so that the first checkpoint stays the best.
    caplog.set_level(logging.WARNING)
    validator(chinese, (1,), 4)
    assert "set training.tokenize to zh" in caplog.text
    caplog.clear()
    measure = validator(chinese, (1,), 4, "zh")
    assert not caplog.text
    shape = {"hidden_size": 16, "heads": 2, "encoder_layers": 1, "decoder_layers": 1}
    config = TransformerConfig(vocabulary_size=len(chinese.vocabulary), **shape)
    assert set(measure(Transformer(config).eval())) == {"bleu_k1", "score"}
    with pytest.raises(UsageError, match="unknown BLEU tokenizer 'zhh'"):
        validator(chinese, (1,), 4, "zhh")
