"""Measure TF-IDF with logistic regression by the same code and records as the Transformers.

    python baseline.py DIRECTORY RESULT.json

DIRECTORY has train, validation and test.jsonl. The strength of the penalty is chosen on the
validation split, and with more than one number in GRAMS also whether pairs of words are counted,
which takes many times as long. The chosen model is trained again on both splits and answers the
test split once. Needs scikit-learn (extra `tasks`).
"""

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import sklearn
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression

from multistride.files import write_json
from multistride.tasks.classification.task import ClassificationTask
from multistride.tasks.record import Answer

GRAMS, PENALTIES = (1,), (10.0, 30.0, 100.0)

Records = list[dict[str, Any]]


class Baseline:
    """Logarithmic counts of words that at least two documents have, weighted by rarity, and a
    linear model.
    """

    def __init__(self, train: Records, grams: int) -> None:
        self.vectors = TfidfVectorizer(sublinear_tf=True, min_df=2, ngram_range=(1, grams))
        self.features = self.vectors.fit_transform([record["text"] for record in train])
        self.labels = [record["label"] for record in train]
        self.task = ClassificationTask(sorted(set(self.labels)))

    def fit(self, penalty: float) -> None:
        """Train the linear model; a larger number is a weaker penalty."""
        self.model = LogisticRegression(C=penalty, max_iter=300, tol=1e-3).fit(
            self.features, self.labels
        )

    def answers(self, given: Records) -> list[Answer]:
        """What it says of each record."""
        scores = self.model.predict_log_proba(
            self.vectors.transform([record["text"] for record in given])
        )
        return [self.task.answer(row, record) for row, record in zip(scores, given, strict=True)]


def read(path: Path) -> Records:
    """The records of a file."""
    with path.open(encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def chosen(train: Records, validation: Records) -> tuple[dict[str, float], list[dict[str, float]]]:
    """The best setting on the validation split, and all that were tried."""
    tried = []
    for grams in GRAMS:
        baseline = Baseline(train, grams)
        for penalty in PENALTIES:
            baseline.fit(penalty)
            accuracy = baseline.task.metrics(baseline.answers(validation), validation)["accuracy"]
            tried.append({"grams": grams, "penalty": penalty, "validation_accuracy": accuracy})
            print(tried[-1], file=sys.stderr, flush=True)
    return max(tried, key=lambda each: each["validation_accuracy"]), tried


def main(directory: Path, output: Path) -> None:
    train, validation, test = (
        read(directory / f"{name}.jsonl") for name in ("train", "validation", "test")
    )
    best, tried = chosen(train, validation)
    began = time.perf_counter()
    baseline = Baseline(train + validation, int(best["grams"]))
    baseline.fit(best["penalty"])
    trained = time.perf_counter()
    found = baseline.answers(test)
    done = time.perf_counter()
    result = {
        "task": "classification",
        "name": "TF-IDF and logistic regression",
        "scikit_learn": sklearn.__version__,
        "tried": tried,
        "chosen": best,
        "records": len(test),
        "train_seconds": round(trained - began, 2),
        "records_per_second": round(len(test) / (done - trained), 1),
        "metrics": baseline.task.metrics(found, test),
        "details": baseline.task.details(found, test),
    }
    write_json(output, result)
    print(json.dumps(result["metrics"]), file=sys.stderr)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("directory", type=Path, metavar="DIRECTORY")
    parser.add_argument("output", type=Path, metavar="RESULT")
    main(**vars(parser.parse_args()))
