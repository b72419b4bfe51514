"""Records with labels to token arrays: what is kept, what is lost, and why."""

import json
from itertools import pairwise

import numpy as np
import pytest

from multistride.data.batch import PreparedData, collate
from multistride.data.labelled import LabelledDocuments, window_sources
from multistride.data.prepare import prepare
from multistride.data.prepare_records import RecordsPrepareConfig
from multistride.errors import DataError


def write(path, *records):
    path.write_bytes(
        b"".join(
            each if isinstance(each, bytes) else json.dumps(each).encode() + b"\n"
            for each in records
        )
    )
    return path


@pytest.fixture
def prepared(tmp_path):
    train = write(
        tmp_path / "train.jsonl",
        {"text": " a b a ", "label": "y"},
        {"text": "b b", "label": "x "},
        {"text": " ", "label": "x"},
        {"text": 3, "label": "x"},
        {"label": "x"},
        b"\xff\n",
        {"text": "\ud800", "label": "x"},
    )
    validation = write(
        tmp_path / "v.jsonl", {"text": "a", "label": "z"}, {"text": "a b", "label": "x"}
    )
    config = {
        "output": tmp_path / "data",
        "train": [train],
        "validation": [validation],
        "vocabulary_size": 270,
    }
    return prepare(RecordsPrepareConfig.model_validate(config)), PreparedData.load(
        tmp_path / "data"
    )


def test_what_is_kept_and_what_is_lost(prepared):
    # Guards: labels in the order they came, a label of validation alone that gets a class, losses
    # that nobody sees.
    manifest, data = prepared
    assert data.classes == ("x", "y")
    assert manifest["splits"]["train"]["dropped"] == {
        "broken record": 1,
        "missing field": 1,
        "empty": 1,
        "invalid utf-8": 2,
    }
    assert manifest["splits"]["validation"]["dropped"] == {"label not seen in training": 1}
    assert manifest["splits"]["train"]["of_class"] == {"x": 1, "y": 1}
    split = data.split("train")
    assert split.labels.tolist() == [1, 0]
    assert data.vocabulary.decode(split.document(0)) == "a b a"


def test_batches_hold_documents_and_classes(prepared):
    # Guards: an EOS that windows would take for a word; classes and documents that do not belong
    # together.
    _, data = prepared
    split = data.split("train")
    batch = collate(split, [1, 0], data.vocabulary)
    assert batch.target.tolist() == [[0], [1]]
    assert batch.source_lengths.tolist() == [len(split.document(1)), len(split.document(0))]
    assert data.vocabulary.eos not in batch.source


def test_one_class_is_refused(tmp_path):
    train = write(tmp_path / "t.jsonl", {"text": "a", "label": "x"})
    with pytest.raises(DataError, match="one class, 'x'; a classifier needs two"):
        prepare(RecordsPrepareConfig(output=tmp_path / "data", train=(train,)))


def test_a_damaged_label_is_found(prepared, tmp_path):
    # Guards: a class that the model has no row for, found in the middle of a run.
    _, data = prepared
    np.save(tmp_path / "data/train.text.labels.npy", np.array([0, 2]))
    with pytest.raises(DataError, match="the train arrays do not fit each other"):
        data.split("train")


def test_windows_become_pairs_with_the_names_of_their_classes():
    # Guards: a window with the label of its neighbour, and a cut that is not where classifying
    # cuts.
    tokens, offsets = np.arange(10, 30), np.array([0, 3, 20])
    documents = LabelledDocuments(tokens, offsets, np.array([1, 0]))
    sources, begins, targets, target_begins = window_sources(documents, [[5], [6, 7]], 8, 2, 15)
    windows = [sources[a:b].tolist() for a, b in pairwise(begins)]
    names = [targets[a:b].tolist() for a, b in pairwise(target_begins)]
    assert windows == [[10, 11, 12], list(range(13, 20)), list(range(17, 24)), list(range(21, 28))]
    assert names == [[6, 7], [5], [5], [5]]
