"""Measure the wide path of a classifier without the deep one, by the same code as both together.

    python wide_alone.py MODEL RECORDS.jsonl RESULT.json

MODEL was trained with `classifier.wide`. No window is encoded; the probabilities are not
calibrated.
"""

import argparse
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from multistride.files import sha256, write_json
from multistride.tasks.classification.classifier import Classifier
from multistride.tasks.classification.documents import tokens_of
from multistride.tasks.classification.task import ClassificationTask

Records = list[dict[str, Any]]


@torch.inference_mode()
def scored(classifier: Classifier, records: Records) -> Iterator[list[float]]:
    """The log-probabilities of the classes, record by record."""
    head = classifier.model.classifier
    if head is None or head.wide is None:
        sys.exit("the model has no wide path: train with --set 'classifier.wide={}'")
    for tokens in tokens_of(
        classifier.vocabulary, (record["text"] for record in records), classifier.shape
    ):
        read = torch.tensor(tokens, dtype=torch.long)
        yield head.wide(read, torch.zeros_like(read), 1)[0].log_softmax(-1).tolist()


def main(model: Path, source: Path, output: Path) -> None:
    torch.set_num_threads(1)
    classifier = Classifier.load(model, "cpu", calibrated=False)
    task = ClassificationTask(classifier.classes)
    records = [json.loads(line) for line in source.read_text(encoding="utf-8").splitlines()]
    began = time.perf_counter()
    answers = [
        task.answer(scores, record)
        for scores, record in zip(scored(classifier, records), records, strict=True)
    ]
    seconds = time.perf_counter() - began
    result = {
        "task": "classification",
        "name": "the wide path alone",
        "model": str(model),
        "model_sha256": sha256(model / "model.safetensors"),
        "records": len(records),
        "records_per_second": round(len(records) / seconds, 1),
        "metrics": task.metrics(answers, records),
        "details": task.details(answers, records),
    }
    write_json(output, result)
    print(json.dumps(result["metrics"]), file=sys.stderr)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path, metavar="MODEL")
    parser.add_argument("source", type=Path, metavar="RECORDS")
    parser.add_argument("output", type=Path, metavar="RESULT")
    main(**vars(parser.parse_args()))
