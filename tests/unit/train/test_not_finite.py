"""Updates that spoil the weights: nothing of them is kept."""

import json

import pytest

from multistride.errors import UserError
from multistride.train.config import RunConfig
from multistride.train.loop import train
from multistride.train.monitor import Monitor

SMALL = {"hidden_size": 16, "heads": 2, "feedforward_size": 16}


def test_weights_that_an_update_has_spoilt_are_no_checkpoint(tmp_path, data):
    # Guards: a validation between a step that is too long and the next loss. It wrote the spoilt
    # weights as the last checkpoint, from which --resume could not continue, and NaN into
    # metrics.jsonl; and as no score is above NaN, no later checkpoint became the best.
    training = {"updates": 6, "tokens_per_batch": 64, "warmup_updates": 0, "device": "cpu"}
    training |= {"schedule": "constant", "validate_every": 1, "validate_sentences": 0}
    model = {**SMALL, "encoder_layers": 1, "decoder_layers": 1}

    def run(rate, resume):
        changed = {**training, "learning_rate": rate, "precision": "float32"}
        tree = {"data": data, "run": tmp_path / "run", "model": model, "training": changed}
        return train(RunConfig.model_validate(tree), None, Monitor("run"), resume)

    with pytest.raises(UserError, match=r"validation_loss_k1 is nan after update 1.*--resume"):
        run(1e37, resume=False)
    assert not (tmp_path / "run/last").exists()
    noted = json.loads((tmp_path / "run/not_finite.json").read_text())
    assert noted == {"update": 1, "validation": {"validation_loss_k1": "nan", "score": "nan"}}
    done = run(1e-3, resume=True)
    assert (done.path / "best").is_dir()
    assert not (done.path / "not_finite.json").exists()
