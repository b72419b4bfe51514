"""The fit of the wide path: what is counted, what is minimised, and what training sees of it."""

import json

import numpy as np
import pytest
import torch
from torch.nn import functional

from multistride.config import validate
from multistride.data.prepare import prepare
from multistride.data.prepare_records import RecordsPrepareConfig
from multistride.model.weights import load_model
from multistride.model.wide import Bag, number_of
from multistride.tasks.classification.classifier import Classifier
from multistride.train.average import average_models
from multistride.train.config import RunConfig
from multistride.train.loop import Trainer, train
from multistride.train.monitor import Monitor
from multistride.train.wide import FOLDS, Regression, rarity

MODEL = {
    "hidden_size": 8,
    "feedforward_size": 8,
    "heads": 2,
    "encoder_layers": 1,
    "max_positions": 9,
}
WORDS = {"fruit": ["apple", "pear", "plum"], "tools": ["saw", "nail", "drill"]}


def documents():
    for number in range(18):
        for label, words in WORDS.items():
            yield {
                "text": f"we saw {number} a {words[number % 3]} there " * (1 + number % 4),
                "label": label,
            }


@pytest.fixture
def config(tmp_path):
    """Makes a configuration with a wide path on documents of two classes."""
    path = tmp_path / "records.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in documents()))
    files = {"train": (path,), "validation": (path,)}
    prepare(RecordsPrepareConfig(output=tmp_path / "data", vocabulary_size=290, **files))

    def make(run="run", updates=4, **changes):
        training = {
            "updates": updates,
            "tokens_per_batch": 64,
            "validate_every": 2,
            "windows_per_document": 2,
        }
        tree = {"data": tmp_path / "data", "run": tmp_path / run, "model": MODEL}
        shape = {"window": 8, "overlap": 2, "wide": {"words": 40}, **changes}
        given = {
            **tree,
            "training": {**training, "precision": "float32", "device": "cpu"},
            "classifier": shape,
        }
        return validate(RunConfig, given, "test")

    return make


def trainer(config):
    return Trainer(config, None, Monitor("test"), resume=False)


def test_words_are_counted_in_documents_and_rare_ones_left_out(config):
    """Words counted by how often they stand there; a table that depends on the order of
    documents."""
    wide = trainer(config()).model.classifier.wide
    known = dict(zip(wide.known.tolist(), wide.rarity.tolist(), strict=True))
    assert known[number_of(b"we")] == pytest.approx(rarity(np.array([36]), 36)[0]) == 1.0
    assert known[number_of(b"apple")] == pytest.approx(np.log(37 / 7) + 1)
    assert wide.known.tolist() == sorted(wide.known.tolist())
    rare = trainer(config(run="rare", wide={"words": 40, "documents": 7})).model.classifier.wide
    assert number_of(b"apple") not in rare.known.tolist()
    few = trainer(config(run="few", wide={"words": 4})).model.classifier.wide
    assert {number_of(word) for word in (b"we", b"a", b"there")} < set(few.known.tolist())


def test_only_the_first_tokens_are_counted_and_read_where_that_is_asked_for(config):
    """A cut baseline whose wide path sees the whole document."""
    settings = config(first_tokens=8)
    train(settings, None, Monitor("test"))
    classifier = Classifier.load(settings.run / "last", "cpu", calibrated=False)
    text = "we saw 17 a pear there"
    [tokens] = classifier.vocabulary.encode([text])
    cut = classifier.vocabulary.decode(tokens[:8])
    longer = text + " saw drill nail" * 9
    torch.testing.assert_close(
        classifier.log_probabilities([longer]), classifier.log_probabilities([cut])
    )


def test_the_fit_is_the_minimum_that_autograd_finds():
    """A gradient written out that is not that of the loss; documents that count although they are
    left out."""
    torch.manual_seed(1)
    features = torch.rand(12, 5) * (torch.rand(12, 5) < 0.6)
    document, place = features.nonzero().T
    labels = torch.randint(0, 3, (12,))
    counted = torch.arange(12) != 4
    regression = Regression(
        Bag(place, features[document, place], document), labels, 5, 3, penalty=0.5
    )
    weight, bias = regression.minimum(counted)
    weight.requires_grad_()
    bias.requires_grad_()
    errors = functional.cross_entropy(
        (features @ weight + bias)[counted], labels[counted], reduction="sum"
    )
    (errors + 0.25 * weight.square().sum()).backward()
    assert weight.abs().max() > 0.1
    assert weight.grad.abs().max() < 2e-3
    assert bias.grad.abs().max() < 2e-3


def test_the_deep_path_is_trained_beside_fits_that_did_not_see_the_document(config):
    """Logits that know the answer; a wide path that training changes; logits of other documents of
    a batch."""
    run = trainer(config())
    labels = torch.from_numpy(np.array(run.splits["train"].labels))
    assert run.wide_logits.shape == (36, 2)
    wide = run.model.classifier.wide
    changed = torch.from_numpy(run.splits["train"].document(FOLDS).astype(np.int64))
    own = wide(changed, torch.zeros_like(changed), 1)[0]
    assert (
        own[labels[FOLDS]] - own.min()
        > run.wide_logits[FOLDS, labels[FOLDS]] - run.wide_logits[FOLDS].min()
    )
    before = {name: weights.clone() for name, weights in wide.state_dict().items()}
    [piece] = run.feed.take(run.progress, 1)
    assert torch.equal(
        run._completed(piece, run.layouts.draw(piece.batch, piece.generator, 0.0)).wide_logits,
        run.wide_logits[torch.from_numpy(piece.rows)],
    )
    run.update()
    assert all(torch.equal(weights, before[name]) for name, weights in wide.state_dict().items())


def test_a_resumed_run_is_the_run_that_went_on(config):
    """A path that is fitted to something else when a run goes on, or trained beside other
    logits."""
    whole = config("whole")
    train(whole, None, Monitor("test"))
    half = trainer(config("half"))
    with half.attention():
        for _ in range(2):
            half.update()
    half.save()
    train(config("half"), None, Monitor("test"), resume=True)
    first, second = (
        load_model(each.run / "last")[0].state_dict() for each in (whole, config("half"))
    )
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_what_is_counted_is_stored_and_read_again(config):
    """Numbers of words rounded to float32 when a model is loaded, or averaged."""
    settings = config()
    train(settings, None, Monitor("test"))
    fitted = trainer(config(run="again")).model.classifier.wide.state_dict()
    loaded = load_model(settings.run / "last")[0].classifier.wide.state_dict()
    assert loaded["known"].dtype == torch.int64
    assert all(torch.equal(loaded[name], fitted[name]) for name in fitted)
    average_models([settings.run / "last", settings.run / "best"], settings.run / "average")
    averaged = load_model(settings.run / "average")[0].classifier.wide.state_dict()
    assert torch.equal(averaged["known"], fitted["known"])


def test_validation_reads_the_wide_path_as_classifying_does(config):
    """A best checkpoint chosen by the deep path alone."""
    settings = config(updates=1)
    train(settings, None, Monitor("test"))
    entries = [
        json.loads(line) for line in (settings.run / "metrics.jsonl").read_text().splitlines()
    ]
    classifier = Classifier.load(settings.run / "last", "cpu", calibrated=False)
    records = list(documents())
    found = classifier.log_probabilities([record["text"] for record in records]).argmax(1).tolist()
    right = [
        classifier.classes[place] == record["label"]
        for place, record in zip(found, records, strict=True)
    ]
    first, last = (entry for entry in entries if entry["kind"] == "validation")
    assert last["accuracy"] == sum(right) / len(right) == 1.0
    assert (first["update"], first["accuracy"]) == (0, 1.0)
    lower = min((first, last), key=lambda entry: entry["validation_loss"])  # of equal accuracies
    assert (settings.run / "best").resolve().name == f"step_{lower['update']}"


def test_a_run_stopped_before_its_first_update_goes_on(config):
    """A first validation made twice, or a state without any optimiser that cannot be read."""
    settings = config("half", updates=2)
    trainer(settings).validate()
    train(settings, None, Monitor("test"), resume=True)
    entries = [
        json.loads(line) for line in (settings.run / "metrics.jsonl").read_text().splitlines()
    ]
    assert [entry["update"] for entry in entries if entry["kind"] == "validation"] == [0, 2]


def test_one_document_has_one_bag(config):
    """Bags of windows: counts of overlaps twice, or the frequency of a word within a window."""
    settings = config()
    train(settings, None, Monitor("test"))
    classifier = Classifier.load(settings.run / "last", "cpu", calibrated=False)
    model = classifier.model
    long, short = "we saw 1 a pear there " * 9, "a nail"
    rows = []
    for text in (long, short):
        [tokens] = classifier.vocabulary.encode([text])
        read = torch.tensor(tokens)
        rows.append(model.classifier.wide(read, torch.zeros_like(read), 1))
    with torch.no_grad():
        model.classifier.output.weight.zero_()
        model.classifier.output.bias.zero_()
    found = classifier.log_probabilities([long, short])
    torch.testing.assert_close(found, torch.cat(rows).log_softmax(-1))
