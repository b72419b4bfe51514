"""Compare a model of phonemes with the network in the package g2p-en: error rates and speed.

    python against_g2p_en.py MODEL TEST [--group-size 1,2,4] [--output FILE]

MODEL is a model directory, TEST the held-out part of CMUdict (`test.tsv.xz`: a word, a tab, its
phonemes; a line for each pronunciation). g2p-en answers from CMUdict itself where it can, so its
network (`G2p.predict`) is asked, as for words that no dictionary has. That network was trained on
CMUdict by its authors; which of these words it saw is not known, so the comparison can only flatter
it. An answer is compared with the closest of a word's pronunciations, with stress marks and
without.

g2p-en is neither installed nor imported with its own needs: `pip download --no-deps g2p-en`, unpack
it, and put the folder on PYTHONPATH.
"""

from __future__ import annotations

import argparse
import importlib
import json
import lzma
import re
import statistics
import sys
import time
import types
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

import multistride
from multistride.cpu import cpu_name
from multistride.files import sha256, write_json

Phonemes = list[str]
Pronounce = Callable[[Sequence[str]], list[Phonemes]]

WORD = re.compile(r"[a-z']+")
"""Words with other characters, which g2p-en does not know, are left out."""


def test_words(path: Path) -> dict[str, list[Phonemes]]:
    """Return each word's pronunciations."""
    words: dict[str, list[Phonemes]] = {}
    with lzma.open(path, "rt", encoding="utf-8") as lines:
        for line in lines:
            word, _, phonemes = line.rstrip("\n").partition("\t")
            if WORD.fullmatch(word):
                words.setdefault(word, []).append(phonemes.split())
    return words


def edit_distance(left: Phonemes, right: Phonemes) -> int:
    """Return the insertions, deletions and substitutions between two sequences."""
    row = list(range(len(right) + 1))
    for index, phoneme in enumerate(left, start=1):
        previous, row[0] = row[0], index
        for column, other in enumerate(right, start=1):
            changed = previous + (phoneme != other)
            previous, row[column] = row[column], min(changed, row[column] + 1, row[column - 1] + 1)
    return row[-1]


def errors(answers: list[Phonemes], words: dict[str, list[Phonemes]]) -> dict[str, float]:
    """Return the error rates of phonemes and of words against the closest pronunciation."""
    wrong = phonemes = misses = 0
    for answer, pronunciations in zip(answers, words.values(), strict=True):
        distance, length = min((edit_distance(answer, each), len(each)) for each in pronunciations)
        wrong, phonemes, misses = wrong + distance, phonemes + length, misses + (distance > 0)
    return {"phoneme_error_rate": wrong / phonemes, "word_error_rate": misses / len(words)}


def unstressed(phonemes: Phonemes) -> Phonemes:
    """Return phonemes without the digit that marks stress."""
    return [phoneme.rstrip("012") for phoneme in phonemes]


def g2p_en() -> Pronounce:
    """Return g2p-en's network, which takes one word at a time."""
    # Importing the package loads nltk and downloads its corpora; the network needs neither.
    for name in ("nltk", "nltk.corpus", "nltk.tokenize", "inflect"):
        sys.modules[name] = types.ModuleType(name)
    quiet: Any = lambda *_: None  # noqa: E731
    fakes: dict[str, dict[str, Any]] = {
        "nltk": {"pos_tag": quiet, "data": types.SimpleNamespace(find=quiet), "download": quiet},
        "nltk.corpus": {"cmudict": types.SimpleNamespace(dict=dict)},
        "nltk.tokenize": {"TweetTokenizer": lambda: types.SimpleNamespace(tokenize=str.split)},
        "inflect": {"engine": quiet},
    }
    for name, attributes in fakes.items():
        vars(sys.modules[name]).update(attributes)
    network = importlib.import_module("g2p_en.g2p").G2p()
    return lambda words: [network.predict(word) for word in words]


def ours(model: multistride.Translator, group_size: int, batch_size: int) -> Pronounce:
    """Return the model at one group size."""

    def pronounce(words: Sequence[str]) -> list[Phonemes]:
        texts = [" ".join(word) for word in words]
        found = model.translate(texts, group_size=group_size, batch_size=batch_size)
        return [each.text.split() for each in found]

    return pronounce


def milliseconds(contenders: dict[str, Pronounce], words: list[str]) -> dict[str, float]:
    """Return each contender's median processor time for one word alone; they take turns.

    On one thread that is the time of the clock where nothing else runs, and it holds where much
    does.
    """
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for word in [words[0], *words]:
        for name, pronounce in contenders.items():
            began = time.process_time()
            pronounce([word])
            times[name].append(1000 * (time.process_time() - began))
    return {name: statistics.median(each[1:]) for name, each in times.items()}


def throughput(pronounce: Pronounce, words: list[str]) -> float:
    """Return words a second of processor time, all handed over at once; the best of three."""
    times = []
    for _ in range(3):
        began = time.process_time()
        pronounce(words)
        times.append(time.process_time() - began)
    return len(words) / min(times)


def main() -> None:
    """Measure, print a table and write the result."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("test", type=Path)
    parser.add_argument("--group-size", default="1,2,4")
    parser.add_argument("--engine", default="auto")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--timed", type=int, default=300, help="words that are timed one by one")
    parser.add_argument("--output", type=Path)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    words = test_words(asked.test)
    model = multistride.load(asked.model, engine=asked.engine)
    assert isinstance(model, multistride.Translator)
    contenders = {"g2p-en": g2p_en()} | {
        f"multistride, K={size}": ours(model, int(size), asked.batch_size)
        for size in asked.group_size.split(",")
    }
    bare = {
        word: [unstressed(each) for each in pronunciations]
        for word, pronunciations in words.items()
    }
    every = list(words)
    alone = milliseconds(contenders, every[:: max(1, len(every) // asked.timed)][: asked.timed])
    results = {}
    for name, pronounce in contenders.items():
        answers = pronounce(every)
        results[name] = {
            **errors(answers, words),
            **{
                f"{key}_without_stress": value
                for key, value in errors([unstressed(each) for each in answers], bare).items()
            },
            "ms_per_word_p50": alone[name],
            "words_per_second": throughput(pronounce, every),
        }
    settings = {
        "words": len(words), "timed": min(asked.timed, len(words)), "threads": 1,
        "engine": type(model.engine).__name__, "clock": "processor time",
        "batch_size": asked.batch_size, "batch_size_of_g2p_en": 1,
        "cpu": cpu_name(), "torch": torch.__version__, "test_sha256": sha256(asked.test),
        "model_sha256": sha256(asked.model / "model.safetensors"),
    }  # fmt: skip
    if asked.output is not None:
        rows = [{"name": name, "metrics": figures} for name, figures in results.items()]
        result = {"name": "Phonemes against g2p-en", "kind": "other", "settings": settings}
        write_json(asked.output, {**result, "results": rows})
    print(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
