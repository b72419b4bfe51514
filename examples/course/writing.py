"""Chapter 13 of the course: a semi-autoregressive model beside a GPT-2-style one of equal budget.

    python writing.py DATA DIRECTORY RESULT.json

DATA holds `commongen/` (train, dev and test.tsv.xz). Three models learn to write a sentence from a
few words: an autoregressive encoder-decoder, one that writes K = 1, 2, 4 tokens a step, and a
decoder alone (GPT-2 style: words, "=", sentence, as one text), with the same sentences, vocabulary,
number of updates, and about as many weights. The second spends the first half of its updates on
K=1, as the recipe has it; nothing is distilled. The autoregressive encoder-decoder also says how
probable each text is: a judge of coherence. Stopped trainings resume.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

import multistride
from multistride.cpu import cpu_name
from multistride.data.prepare import prepare
from multistride.data.prepare_pairs import CleaningConfig, CorpusFiles, PrepareConfig
from multistride.data.prepare_text import TextFiles, TextPrepareConfig
from multistride.files import write_json
from multistride.tasks.generation.task import GenerationTask
from multistride.tasks.record import Answer
from multistride.text_model import TextModel
from multistride.train.config import RunConfig
from multistride.train.loop import train
from multistride.train.monitor import Monitor
from multistride.translation import Translation

UPDATES, TOKENS, VOCABULARY = 2400, 512, 1500
TESTED, TIMED, SHOWN = 400, 40, 4
POSITIONS = 14
"""Tokens of a text whose positions are shown; few texts are longer."""
BEFORE = 8
"""A token is repeated if it is among so many before it."""

CLEANING = CleaningConfig(max_length_ratio=None)  # a few words, a whole sentence
SHARED = {"heads": 4, "max_positions": 96, "dropout": 0.1}
PAIRS = {"encoder_layers": 2, "decoder_layers": 2, "hidden_size": 96, "feedforward_size": 288}
ALONE = {"encoder_layers": 0, "decoder_layers": 4, "hidden_size": 104, "feedforward_size": 312}
MODELS: dict[str, dict[str, Any]] = {
    "ar": {"model": PAIRS, "groups": {"sizes": {1: 1.0}}},
    "start": {"model": PAIRS, "groups": {"sizes": {1: 1.0}}, "updates": UPDATES // 2},
    "sat": {
        "start": "start",
        "updates": UPDATES // 2,
        "groups": {"sizes": {1: 0.3, 2: 0.3, 4: 0.4}, "lookahead": 0.2, "markov_rank": 64},
    },
    "gpt2": {"model": ALONE, "groups": {"sizes": {1: 1.0}}},
}
WAYS: dict[str, tuple[str, dict[str, Any]]] = {
    "ar-1": ("ar", {"group_size": 1}),
    "sat-1": ("sat", {"group_size": 1}),
    "sat-2": ("sat", {"group_size": 2}),
    "sat-4": ("sat", {"group_size": 4}),
    "sat-adaptive": ("sat", {"group_size": 4, "mode": "adaptive", "threshold": 0.3}),
    "sat-exact": ("sat", {"group_size": 4, "mode": "exact"}),
    "gpt2-1": ("gpt2", {"group_size": 1, "max_tokens": 40}),
}


def prepared(data: Path, directory: Path) -> dict[str, Path]:
    """Return the prepared data of both kinds of model, with one vocabulary."""
    text = directory / "text"
    if not (text / "test.jsonl").is_file():
        corpus = Path(__file__).parents[1] / "generation" / "corpus.py"
        command = [sys.executable, str(corpus), "commongen", str(data / "commongen"), str(text)]
        subprocess.run(command, check=True)
    pairs, alone = directory / "pairs", directory / "alone"
    splits = ("train", "validation")
    if not pairs.is_dir():
        files = {
            split: (CorpusFiles(source=text / f"{split}.source", target=text / f"{split}.target"),)
            for split in splits
        }
        prepare(PrepareConfig(output=pairs, vocabulary_size=VOCABULARY, cleaning=CLEANING, **files))
    if not alone.is_dir():
        documents = {}
        for split in splits:
            sides = [
                (text / f"{split}.{side}").read_text(encoding="utf-8").splitlines()
                for side in ("source", "target")
            ]
            documents[split] = text / f"{split}.jsonl.documents.jsonl"
            documents[split].write_text(
                "".join(
                    json.dumps({"text": f"{prompt(source)} {target}"}) + "\n"
                    for source, target in zip(*sides, strict=True)
                ),
                encoding="utf-8",
            )
        prepare(
            TextPrepareConfig(
                output=alone,
                vocabulary_from=pairs,
                window=96,
                train=TextFiles(documents=(documents["train"],)),
                validation=TextFiles(documents=(documents["validation"],)),
            )
        )
    return {"ar": pairs, "start": pairs, "sat": pairs, "gpt2": alone}


def prompt(source: str) -> str:
    """Return what the decoder alone reads of a source."""
    return f"{source} ="


def trained(name: str, data: Path, directory: Path) -> TextModel:
    """Return a model after its training, which is not repeated."""
    run, model = directory / name, MODELS[name]
    updates = model.get("updates", UPDATES)
    if not (run / "done").is_file():
        settings = {
            "data": data,
            "run": run,
            "start_from": directory / model["start"] / "best" if "start" in model else None,
            "model": {**SHARED, **model["model"]} if "model" in model else None,
            "groups": model["groups"],
            "training": {
                "updates": updates,
                "tokens_per_batch": TOKENS,
                "learning_rate": 4e-3,
                "warmup_updates": updates // 8,
                "schedule": "linear",
                "validate_every": updates // 2,
                "validate_sentences": 0,
                "keep_checkpoints": 1,
                "device": "cpu",
            },
        }
        train(RunConfig.model_validate(settings), None, Monitor(name), resume=run.exists())
        (run / "done").touch()
    return multistride.load(run / "best", engine="eager")


def written(model: TextModel, sources: Sequence[str], way: dict[str, Any]) -> list[Translation]:
    """Return what a model writes about each source."""
    read = [prompt(source) for source in sources] if model.causal else list(sources)
    return model.written(read, model.plan(**way))


def positions(texts: Sequence[str], sources: Sequence[str], judge: TextModel) -> dict[str, Any]:
    """Return surprise under the judge and repetition at each position, in the judge's tokens."""
    tokens = judge.vocabulary.encode_target(texts)
    scores = judge.score(list(zip(sources, texts, strict=True)))
    surprise: list[list[float]] = [[] for _ in range(POSITIONS)]
    again: list[list[bool]] = [[] for _ in range(POSITIONS)]
    for ids, values in zip(tokens, scores, strict=True):
        for place, token in enumerate(ids[:POSITIONS]):
            again[place].append(token in ids[max(0, place - BEFORE) : place])
            if values is not None and place < len(values):
                surprise[place].append(-values[place])
    return {
        "surprise": [statistics.fmean(each) if each else None for each in surprise],
        "repetition": [statistics.fmean(each) if each else None for each in again],
        "texts": [len(each) for each in again],
    }


def reference_perplexity(model: TextModel, records: list[Any], group_size: int) -> float:
    """Return the perplexity per word of the first references at K, EOS left out."""
    pairs, words = [], 0
    for record in records:
        source, text = record["source"], record["references"][0]
        words += len(text.split())
        pairs.append((prompt(source), f" {text}") if model.causal else (source, text))
    total = 0.0
    for (_, text), values in zip(pairs, model.score(pairs, group_size), strict=True):
        assert values is not None
        encode = model.vocabulary.encode_continuation
        total -= sum(values[: len(encode([text])[0])] if model.causal else values[:-1])
    return math.exp(total / words)


def milliseconds(models: dict[str, TextModel], sources: Sequence[str]) -> dict[str, float]:
    """Return the median CPU milliseconds of a text, single texts in turns, the least of two."""
    times: dict[str, list[float]] = {name: [] for name in WAYS}
    for source in sources:
        for name, (model, way) in WAYS.items():
            runs = []
            for _ in range(2):
                began = time.thread_time()
                written(models[model], [source], way)
                runs.append(1000 * (time.thread_time() - began))
            times[name].append(min(runs))
    return {name: statistics.median(found) for name, found in times.items()}


def main(data: Path, directory: Path, output: Path) -> None:
    """Train, measure, and write the result."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.set_num_threads(1)
    directory.mkdir(parents=True, exist_ok=True)
    sets = prepared(data, directory)
    models = {name: trained(name, sets[name], directory) for name in MODELS}
    judge = models["ar"]
    task = GenerationTask(judge)
    lines = (directory / "text/test.jsonl").read_text(encoding="utf-8").splitlines()
    records = [json.loads(line) for line in lines][:TESTED]
    sources = [record["source"] for record in records]
    times = milliseconds(models, sources[:TIMED])
    rows, texts = [], {}
    for name, (model, way) in WAYS.items():
        outputs = written(models[model], sources, way)
        texts[name] = [each.text.strip() for each in outputs]
        answers = [
            Answer(text, task.answer(each, record).facts)
            for text, each, record in zip(texts[name], outputs, records, strict=True)
        ]
        size = int(way["group_size"])
        rows.append(
            {
                "name": name,
                "model": model,
                "group_size": size,
                "mode": way.get("mode", "fast"),
                "metrics": task.metrics(answers, records),
                "reference_perplexity": reference_perplexity(
                    models[model], records, size if way.get("mode") is None else 1
                ),
                "ms_per_text": times[name],
                "positions": positions(texts[name], sources, judge),
            }
        )
        logging.info("%s %s", name, rows[-1]["metrics"])
    write_json(
        output,
        {
            "kind": "course",
            "name": "writing",
            "command": "python examples/course/writing.py DATA DIRECTORY RESULT.json",
            "multistride": multistride.__version__,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "machine": f"{cpu_name()}, {os.cpu_count()} cores, 1 thread(s), torch "
            f"{torch.__version__}",
            "seed": "1",
            "budget": {"updates": UPDATES, "tokens": TOKENS, "tested": TESTED},
            "parameters": {
                name: sum(each.numel() for each in model.engine.model.parameters())
                for name, model in models.items()
            },
            "rows": rows,
            "samples": [
                {
                    "source": sources[index],
                    "reference": records[index]["references"][0],
                    **{name: texts[name][index] for name in WAYS},
                }
                for index in range(0, SHOWN * 7, 7)
            ],
        },
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path, metavar="DATA")
    parser.add_argument("directory", type=Path, metavar="DIRECTORY")
    parser.add_argument("output", type=Path, metavar="RESULT")
    main(**vars(parser.parse_args()))
