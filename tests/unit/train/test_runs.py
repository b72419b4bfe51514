"""Where a run begins, what its best checkpoint is, and what it needs to go on."""

import json
import os
import shutil

import pytest
import torch
import yaml
from accelerate.optimizer import AcceleratedOptimizer

from multistride.errors import Interrupted, UsageError, UserError
from multistride.model.config import TransformerConfig
from multistride.train import loop
from multistride.train.config import RunConfig
from multistride.train.kinds import check_idle
from multistride.train.loop import Trainer, train
from multistride.train.monitor import Monitor

MODEL = {
    "hidden_size": 16,
    "heads": 2,
    "feedforward_size": 16,
    "encoder_layers": 1,
    "decoder_layers": 1,
}
TRAINING = {
    "updates": 6,
    "tokens_per_batch": 64,
    "device": "cpu",
    "precision": "float32",
    "schedule": "constant",
    "validate_every": 2,
    "validate_sentences": 0,
}


@pytest.fixture
def run(tmp_path, data):
    """Train in RUN with other settings of the training; `score` is what every validation says."""

    def start(resume=False, score=None, **changes):
        sections = {key: changes.pop(key) for key in ("model", "groups", "run") if key in changes}
        start_from = changes.pop("start_from", None)
        tree = {"data": data, "run": tmp_path / "run", "model": MODEL, **sections}
        if start_from:
            tree = {**tree, "model": None, "start_from": start_from}
        tree["training"] = {**TRAINING, **changes}
        says = None if score is None else (lambda model: {"score": score(model)})
        return train(RunConfig.model_validate(tree), says, Monitor("run"), resume)

    return start


def best(tmp_path):
    return os.readlink(tmp_path / "run/best").rpartition("_")[2]


@pytest.fixture
def stopped_after(monkeypatch):
    """Let a training be asked to stop after some updates, as Ctrl-C asks it."""

    def after(update):
        monkeypatch.setattr(
            Trainer, "asked_to_stop", lambda self, stop: self.progress.update >= update
        )

    return after


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("run.yaml", "# my settings\nrun: run\n"),
        ("metrics.jsonl", "mine\n"),
        ("best", "mine\n"),
        ("prepare.json", "{}"),
    ],
)
def test_a_run_replaces_nothing_that_no_run_wrote(tmp_path, run, name, text):
    # Guards: a configuration with comments, or prepared data, taken for a run and written over.
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / name).write_text(text)
    with pytest.raises(UsageError, match=rf"{name}.*name another directory for the run"):
        run()
    assert (tmp_path / "run" / name).read_text() == text


def test_a_run_without_a_checkpoint_is_begun_anew(tmp_path, run, monkeypatch):
    # Guards: what a killed run left taken for somebody else's.
    with monkeypatch.context() as killed:
        killed.setattr(Trainer, "save", lambda self: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            run()
    assert {"run.yaml", "metrics.jsonl"} <= set(os.listdir(tmp_path / "run"))
    assert (run().path / "best").is_dir()


def test_a_loss_decides_among_equal_scores(tmp_path, run):
    # Guards: the first checkpoint called the best where BLEU stays at 0.
    run(score=lambda model: 0.0)
    lines = map(json.loads, (tmp_path / "run/metrics.jsonl").read_text().splitlines())
    losses = {
        entry["update"]: entry["validation_loss_k1"]
        for entry in lines
        if entry["kind"] == "validation"
    }
    assert best(tmp_path) == str(min(losses, key=losses.get)) != "2"


@pytest.mark.parametrize(("kept", "found"), [(5, "2"), (2, "6")])
def test_there_is_a_best_after_the_best_checkpoint_was_deleted(tmp_path, run, kept, found):
    # Guards: a link to a deleted checkpoint, the real best one pruned, and no later one called the
    # best because the deleted one was better.
    scores = iter([3.0, 2.0, 5.0, 1.0])
    run(score=lambda model: next(scores), keep_checkpoints=kept)
    assert best(tmp_path) == "6"
    shutil.rmtree(tmp_path / "run/checkpoints/step_6")
    run(resume=True, score=lambda model: next(scores), keep_checkpoints=kept)
    assert best(tmp_path) == found
    assert (tmp_path / "run/best/model.safetensors").is_file()


def test_a_run_that_is_shortened_to_what_is_done_has_a_best(tmp_path, run, stopped_after):
    # Guards: "best checkpoint: RUN/best" where nothing was measured.
    stopped_after(3)
    with pytest.raises(Interrupted):
        run(validate_every=100)
    assert not (tmp_path / "run/best").exists()
    run(resume=True, validate_every=100, updates=3)
    assert best(tmp_path) == "3"


def test_a_run_goes_on_without_the_model_it_started_from(tmp_path, run, stopped_after):
    # Guards: a teacher deleted after days of training, without which nothing could be resumed.
    teacher = run(run=tmp_path / "teacher", updates=2).path / "best"
    stopped_after(2)
    groups = {"sizes": {1: 0.5, 2: 0.5}}
    with pytest.raises(Interrupted):
        run(start_from=teacher, groups=groups)
    shutil.rmtree(tmp_path / "teacher")
    stopped_after(4)
    with pytest.raises(Interrupted):
        run(start_from=teacher, groups=groups, resume=True)
    record = json.loads((tmp_path / "run/record.json").read_text())
    assert record["last"] == 4
    assert len(record["decides"]["start_from"]) == 64


@pytest.mark.parametrize(
    ("owner", "name", "calls"),
    [
        (loop.Accelerator, "backward", 4),
        (AcceleratedOptimizer, "step", 4),  # where the state of the optimiser is made
        (loop.Trainer, "_validated", 2),
    ],
)
def test_batches_may_be_smaller_after_memory_was_too_small(
    tmp_path, run, monkeypatch, owner, name, calls
):
    # Guards: advice that the run then refuses to follow, and that of another command.
    with monkeypatch.context() as small:
        whole, called = getattr(owner, name), []

        def fail(self, *arguments):
            called.append(1)
            if len(called) > calls:
                # of several processes it need not be the first that has too little
                small.setattr(loop.Accelerator, "is_main_process", False)
                raise RuntimeError("can't allocate memory")
            return whole(self, *arguments)

        small.setattr(owner, name, fail)
        with pytest.raises(UserError, match=r"out of memory at update \d .*--resume"):
            run()
    run(resume=True, tokens_per_batch=32, accumulate=2)
    assert yaml.safe_load((tmp_path / "run/run.yaml").read_text())["training"]["accumulate"] == 2
    assert not (tmp_path / "run/out_of_memory.json").exists()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"final_rate": 0.9}, "training.final_rate is 0.9 and decides nothing here: it is for the"),
        ({"decay_share": 0.9, "schedule": "linear"}, "training.decay_share .* the schedule wsd"),
        ({"windows_per_document": 3}, "windows_per_document .* pooled classifiers"),
        ({"trunk_memory": 1.0}, "trunk_memory .* adapters"),
        ({"groups": {"sizes": {1: 1}, "anchors": 3}}, "groups.anchors .* texts without source"),
    ],
)
def test_settings_that_decide_nothing_are_refused(run, changes, said):
    # Guards: a learning rate that somebody believes ends at nine tenths.
    with pytest.raises(UsageError, match=said):
        run(**changes)


def test_dropout_follows_from_the_place_in_the_update(monkeypatch, run, tmp_path):
    # Guards: several processes that drop other words than one process that accumulates.
    seeds = []
    monkeypatch.setattr(loop, "stable_seed", lambda *numbers: seeds.append(numbers) or 1)
    run(updates=2, accumulate=2, run=tmp_path / "other")
    assert [numbers[1:] for numbers in seeds] == [(1, 0), (1, 1), (2, 0), (2, 1)]
    assert torch.initial_seed() == 1


@pytest.mark.parametrize("groups", [{"sizes": {1: 1, 2: 1}}, {"lookahead": 0.5}, {"glancing": 0.3}])
def test_a_pooled_classifier_has_no_groups(groups):
    # Guards: a traceback at the first validation, after all updates before it.
    config = RunConfig.model_validate(
        {"data": "data", "run": "run", "classifier": {}, "groups": groups}
    )
    model = TransformerConfig.model_validate(
        {"decoder_layers": 0, "classifier": {"kind": "pooled", "classes": ("a", "b")}}
    )
    name = next(iter(groups))
    with pytest.raises(UsageError, match=rf"groups\.{name} is .* a pooled classifier does not"):
        check_idle(config, model)
