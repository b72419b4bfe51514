"""TF-IDF and logistic regression on the same records, measured by the same code as the Transformers.

usage: baseline.py DIRECTORY RESULT.json
DIRECTORY has train, validation and test.jsonl. Words or words with pairs of words, and the strength of the penalty, are
chosen on the validation split; the chosen one is trained again on both and answers the test split once.
Needs scikit-learn (extra `tasks`).
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

import sklearn
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from multistride.files import write_json
from multistride.tasks.classification import ClassificationTask
from multistride.tasks.task import Answer

GRAMS, PENALTIES = (1, 2), (3.0, 10.0, 30.0)


def records(path: Path) -> list[dict[str, Any]]:
    """The records of a file."""
    with path.open(encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def fitted(train: list[dict[str, Any]], grams: int, penalty: float) -> Any:
    """A pipeline trained on some records: logarithmic counts, words of at least two documents."""
    vectors = TfidfVectorizer(sublinear_tf=True, min_df=2, ngram_range=(1, grams))
    model = make_pipeline(vectors, LogisticRegression(C=penalty, max_iter=300, tol=1e-3))
    return model.fit([record["text"] for record in train], [record["label"] for record in train])


def answers(model: Any, given: list[dict[str, Any]]) -> list[Answer]:
    """What the pipeline says, as the task's answers."""
    task = ClassificationTask(model.classes_.tolist())
    scores = model.predict_log_proba([record["text"] for record in given])
    return [task.answer(row, record) for row, record in zip(scores, given, strict=True)]


def main(directory: Path, output: Path) -> None:
    train, validation, test = (records(directory / f"{name}.jsonl") for name in ("train", "validation", "test"))
    tried = []
    for grams in GRAMS:
        for penalty in PENALTIES:
            model = fitted(train, grams, penalty)
            task = ClassificationTask(model.classes_.tolist())
            accuracy = task.metrics(answers(model, validation), validation)["accuracy"]
            tried.append({"grams": grams, "penalty": penalty, "validation_accuracy": accuracy})
            print(tried[-1], file=sys.stderr, flush=True)
    best = max(tried, key=lambda each: each["validation_accuracy"])
    began = time.perf_counter()
    model = fitted(train + validation, int(best["grams"]), best["penalty"])
    trained = time.perf_counter() - began
    began = time.perf_counter()
    found = answers(model, test)
    seconds = time.perf_counter() - began
    task = ClassificationTask(model.classes_.tolist())
    result = {
        "task": "classification",
        "name": "TF-IDF and logistic regression",
        "scikit_learn": sklearn.__version__,
        "tried": tried,
        "chosen": best,
        "records": len(test),
        "train_seconds": round(trained, 2),
        "records_per_second": round(len(test) / seconds, 1),
        "metrics": task.metrics(found, test),
        "details": task.details(found, test),
    }
    write_json(output, result)
    print(json.dumps(result["metrics"]), file=sys.stderr)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(Path(sys.argv[1]), Path(sys.argv[2]))
