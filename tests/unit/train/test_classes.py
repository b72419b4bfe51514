"""Runs of classifiers: the same loop, resumed as if nothing had happened, refused where data and
model differ."""

import json

import pytest
import torch

from multistride.config import validate
from multistride.data.prepare import prepare
from multistride.data.prepare_records import RecordsPrepareConfig
from multistride.errors import DataError, UsageError
from multistride.model.weights import load_model
from multistride.train.config import RunConfig
from multistride.train.kinds import trained_splits
from multistride.train.loop import Trainer, train
from multistride.train.monitor import Monitor

MODEL = {
    "hidden_size": 8,
    "feedforward_size": 8,
    "heads": 2,
    "encoder_layers": 1,
    "max_positions": 9,
}
CUT = {"window": 8, "overlap": 2}


def prepared(place, *labels):
    texts = [(label, f"{label} " * (3 + 2 * number)) for number in range(6) for label in labels]
    lines = (json.dumps({"text": text, "label": label}) for label, text in texts)
    (place / "records.jsonl").write_text("\n".join(lines) + "\n")
    files = {"train": (place / "records.jsonl",), "validation": (place / "records.jsonl",)}
    prepare(RecordsPrepareConfig(output=place / "data", vocabulary_size=270, **files))


@pytest.fixture
def config(tmp_path):
    """Makes a configuration on documents of two classes."""
    prepared(tmp_path, "one", "two")

    def make(run="run", updates=4, **sections):
        training = {
            "updates": updates,
            "tokens_per_batch": 64,
            "validate_every": 2,
            "word_dropout": 0.2,
        }
        fixed = {"precision": "float32", "device": "cpu"}
        if (sections.get("classifier", CUT) or {}).get("kind") != "labels":
            fixed["windows_per_document"] = 2
        tree = {"data": tmp_path / "data", "run": tmp_path / run, "model": MODEL, "classifier": CUT}
        return validate(RunConfig, {**tree, "training": {**training, **fixed}, **sections}, "test")

    return make


def run(config, resume=False):
    train(config, None, Monitor("test"), resume)
    return load_model(config.run / "last")[0].state_dict()


def test_a_resumed_run_is_the_run_that_went_on(config, monkeypatch):
    # Guards: windows or dropped words drawn from a generator that a resumed run does not have.
    whole = run(config("whole"))
    half = Trainer(config("half"), None, Monitor("test"), resume=False)
    with half.attention():
        for _ in range(2):
            half.update()
    half.save()
    resumed = run(config("half"), resume=True)
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_validation_is_accuracy_on_all_windows(config):
    # Guards: a best checkpoint chosen by a loss, or by few windows of each document.
    settings = config()
    run(settings)
    lines = (settings.run / "metrics.jsonl").read_text().splitlines()
    entries = [entry for entry in map(json.loads, lines) if entry["kind"] == "validation"]
    assert [entry["update"] for entry in entries] == [2, 4]
    assert all(
        entry["score"] == entry["accuracy"] and 0 <= entry["accuracy"] <= 1 for entry in entries
    )
    assert load_model(settings.run / "best")[0].config.classifier.classes == ("one", "two")


def test_what_only_a_decoder_reads_is_not_trained(config):
    # Guards: weights without gradients, which data-parallel training waits for.
    trainer = Trainer(config(), None, Monitor("test"), resume=False)
    trainer.update()
    trained = {
        name for name, parameter in trainer.model.named_parameters() if parameter.requires_grad
    }
    assert not any(name.startswith(("reach", "decoder")) for name in trained)


def test_a_model_of_labels_learns_windows_as_pairs(config):
    # Guards: labels of other windows, windows longer than the model's context with EOS.
    shape = {**MODEL, "decoder_layers": 1, "max_positions": 24}
    trainer = Trainer(
        config(model=shape, classifier={**CUT, "kind": "labels"}, groups={"sizes": {1: 1, 2: 1}}),
        None,
        Monitor("test"),
        resume=False,
    )
    split, vocabulary = (
        trained_splits(trainer.data, trainer.model.config)["train"],
        trainer.data.vocabulary,
    )
    assert len(split) > 12
    for row in range(len(split)):
        assert vocabulary.decode(split.target(row))[1:] in vocabulary.decode(split.source(row))
    trainer.update()


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"classifier": None}, "holds documents with labels: add `classifier: {}`"),
        (
            {"model": {**MODEL, "decoder_layers": 2}},
            "model.decoder_layers is 2; a pooled classifier has no decoder",
        ),
        (
            {"classifier": {**CUT, "window": 9}},
            "classifier.window is 9; it must be smaller than max_positions",
        ),
    ],
)
def test_configurations_that_do_not_fit_are_refused(config, sections, message):
    with pytest.raises(UsageError, match=message):
        Trainer(config(**sections), None, Monitor("test"), resume=False)


def test_classes_that_changed_between_two_parts_of_a_run_are_refused(config, tmp_path):
    # Guards: a head whose rows mean other classes after the data were prepared anew.
    run(config(updates=2))
    prepared(tmp_path, "one", "three")
    with pytest.raises(DataError, match="'two' missing and 'three' not known"):
        Trainer(config(updates=2), None, Monitor("test"), resume=True)


def test_classes_that_were_written_down_are_checked(config):
    with pytest.raises(
        DataError, match=r"are not those of classifier.classes: 'four' missing and 'two' not known"
    ):
        Trainer(
            config(classifier={**CUT, "classes": ["one", "four"]}),
            None,
            Monitor("test"),
            resume=False,
        )


def test_an_encoder_that_is_there_is_where_a_head_begins(config):
    # Guards: a start that is thrown away.
    first = run(config("first"))
    begun = Trainer(
        config("second", model=None, start_from=config("first").run / "last"),
        None,
        Monitor("test"),
        False,
    )
    assert all(torch.equal(first[name], value) for name, value in begun.model.state_dict().items())
