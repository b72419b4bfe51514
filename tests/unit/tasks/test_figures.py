"""Figures of a classifier, against scikit-learn and by hand."""

import numpy as np
import pytest
from sklearn.metrics import confusion_matrix, f1_score, log_loss, precision_recall_fscore_support

from multistride.errors import DataError
from multistride.tasks.classification.task import ClassificationTask
from multistride.tasks.record import RecordError

CLASSES = ["a", "b", "c"]


def answered(count=200):
    generator = np.random.default_rng(3)
    scores = np.log(generator.dirichlet([1, 1, 1], count))
    labels = [CLASSES[place] for place in generator.integers(0, 3, count)]
    task = ClassificationTask(CLASSES)
    records = [
        {"text": "word " * (1 + place), "label": label} for place, label in enumerate(labels)
    ]
    return (
        task,
        [task.answer(row, record) for row, record in zip(scores, records, strict=True)],
        records,
        scores,
    )


def test_figures_are_those_of_scikit_learn():
    # Guards: precision and recall the wrong way round, a matrix that is transposed.
    task, answers, records, scores = answered()
    labels, found = [record["label"] for record in records], [answer.text for answer in answers]
    metrics, details = task.metrics(answers, records), task.details(answers, records)
    assert metrics["macro_f1"] == pytest.approx(f1_score(labels, found, average="macro"))
    assert metrics["log_loss"] == pytest.approx(log_loss(labels, np.exp(scores)))
    assert details["confusion"] == confusion_matrix(labels, found).tolist()
    expected = precision_recall_fscore_support(labels, found)
    for place, row in enumerate(details["by_class"]):
        assert [row["precision"], row["recall"], row["f1"]] == pytest.approx(
            [part[place] for part in expected[:3]]
        )


def test_quarters_hold_every_record_by_length():
    # Guards: a quartile that leaves out the longest, or is cut at equal numbers of words.
    task, answers, records, _ = answered(10)
    quarters = task.details(answers, records)["by_length"]
    assert [(part["words_from"], part["words_to"]) for part in quarters] == [
        (1, 3),
        (4, 6),
        (7, 8),
        (9, 10),
    ]
    total = sum(part["accuracy"] * part["records"] for part in quarters)
    assert total == pytest.approx(10 * task.metrics(answers, records)["accuracy"])


def test_records_that_are_no_documents_or_have_a_new_label():
    task = ClassificationTask(CLASSES)
    assert task.example({"text": "x", "label": " b "}, 1).target == "b"
    with pytest.raises(
        RecordError, match="line 7: the label 'd' was not seen in training; there are a, b, c"
    ):
        task.example({"text": "x", "label": "d"}, 7)
    with pytest.raises(RecordError, match="line 2: the field 'text' is blank"):
        task.example({"text": " \n"}, 2)
    with pytest.raises(DataError, match="a record has text and no 'label'"):
        task.refuse([{"text": "x", "label": "a"}, {"text": "x"}])
