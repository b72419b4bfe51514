"""Measure the time and memory of classifying documents of 512 to 32,768 tokens.

    python lengths.py MODEL RECORDS.jsonl RESULT.json

Each length is measured in a process of its own, on one thread, under Linux: the CPU time of the
median of three rounds after one that does not count, and the most memory the process ever held,
beside that of a process which only loads the model.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch

from multistride.cpu import cpu_name
from multistride.data.documents import encode_document
from multistride.evaluate.bench.workers.memory import peak_mb
from multistride.files import sha256, write_json
from multistride.model.directory import load_provenance
from multistride.tasks.classification.classifier import Classifier

LENGTHS = (0, 512, 1024, 2048, 4096, 8192, 16384, 32768)
ROUNDS = 3


def measure(model: Path, records: Path, length: int) -> dict[str, float]:
    """Measure one length in this process; 0 only loads the model."""
    torch.set_num_threads(1)
    classifier = Classifier.load(model, "cpu")
    found: dict[str, float] = {"tokens": length}
    if length:
        text = document(classifier, records, length)
        classifier.log_probabilities([text])
        times = []
        for _ in range(ROUNDS):
            began = time.process_time()
            classifier.log_probabilities([text])
            times.append(time.process_time() - began)
        seconds, words = statistics.median(times), len(text.split())
        found |= {
            "words": words,
            "cpu_milliseconds": 1000 * seconds,
            "words_per_second": words / seconds,
        }
    return {**found, "peak_megabytes": peak_mb() or 0.0}


def document(classifier: Classifier, records: Path, length: int) -> str:
    """Return this many tokens of the texts of the records, one after the other."""
    tokens: list[int] = []
    with records.open(encoding="utf-8") as lines:
        for line in lines:
            tokens += encode_document(classifier.vocabulary, json.loads(line)["text"] + "\n")
            if len(tokens) >= length:
                return classifier.vocabulary.decode(tokens[:length])
    raise SystemExit(f"{records} has {len(tokens)} tokens, {length} are needed: give more records")


def main(model: Path, records: Path, output: Path) -> None:
    rows = []
    for length in LENGTHS:
        paths = (str(model), str(records), str(output))
        command = [sys.executable, __file__, *paths, "--length", str(length)]
        rows.append(json.loads(subprocess.run(command, check=True, capture_output=True).stdout))
        print(rows[-1], file=sys.stderr, flush=True)
    loaded = rows[0]["peak_megabytes"]
    for row in rows:
        row["above_loading_megabytes"] = row["peak_megabytes"] - loaded
    shape = Classifier.load(model, "cpu").shape.model_dump(exclude={"classes"})
    machine = {"cpu": cpu_name(), "threads": 1, "torch": torch.__version__}
    weights = sha256(model / "model.safetensors")
    model_facts = {
        "model_sha256": weights,
        "updates": load_provenance(model).get("update", 0),
        "classifier": shape,
    }
    write_json(output, {**model_facts, "machine": machine, "results": rows[1:]})


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path, metavar="MODEL")
    parser.add_argument("records", type=Path, metavar="RECORDS")
    parser.add_argument("output", type=Path, metavar="RESULT")
    parser.add_argument("--length", type=int, help=argparse.SUPPRESS)  # one measuring process
    given = parser.parse_args()
    if given.length:
        print(json.dumps(measure(given.model, given.records, given.length)))
    else:
        main(given.model, given.records, given.output)
