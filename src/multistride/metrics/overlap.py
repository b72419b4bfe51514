"""Overlap of texts with their references: ROUGE, BLEU, concepts, length.

The words and their stems are those of the package `rouge-score`, Google's reimplementation of ROUGE
(Lin 2004), with one difference: it knows no letters but a to z, here every letter of Unicode makes
words, so that other languages have figures too. Of text in ASCII the figures are the same.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from typing import Any, NamedTuple

from sacrebleu.metrics import BLEU

from multistride.errors import MissingExtraError

try:
    from rouge_score.rouge_scorer import RougeScorer
except ImportError:  # `scorer` says so
    RougeScorer = None
with suppress(ImportError):
    from nltk.stem.porter import PorterStemmer

_WORD = re.compile(r"[^\W_]+")
_SHORTEST_STEMMED = 4
"""Letters; rouge-score leaves shorter words as they are."""


class Rouge(NamedTuple):
    """F-measures, 0-1: words, pairs of words, longest common subsequence of words."""

    rouge_1: float
    rouge_2: float
    rouge_l: float


def rouge(texts: Sequence[str], references: Sequence[Sequence[str]]) -> Rouge:
    """Return the mean ROUGE of all texts, each against its best reference by that figure.

    Raises `MissingExtraError` without the package rouge-score.
    """
    found = [
        scorer().score_multi(list(own), text) for text, own in zip(texts, references, strict=True)
    ]
    names = ("rouge1", "rouge2", "rougeL")
    return Rouge(*(sum(scores[name].fmeasure for scores in found) / len(found) for name in names))


def check_rouge() -> None:
    """Raise `MissingExtraError` without the package rouge-score; call it before a model runs."""
    scorer()


def bleu(texts: Sequence[str], references: Sequence[Sequence[str]]) -> tuple[float, str]:
    """Return corpus BLEU against all references of each text, and its sacreBLEU signature."""
    most = max(map(len, references))
    streams = [
        [own[place] if place < len(own) else None for own in references] for place in range(most)
    ]
    metric = BLEU()
    score = metric.corpus_score(list(texts), streams).score
    return min(float(score), 100.0), metric.get_signature().format()


def concept_coverage(texts: Sequence[str], concepts: Sequence[Sequence[str]]) -> float:
    """Return the share of concepts that the texts have, by word stems, 0-1.

    Stems know no irregular forms ("ran" is not "run"), so it is a lower bound, also for the
    references.
    """
    there = asked = 0
    for text, wanted in zip(texts, concepts, strict=True):
        found = set(words(text))
        there += sum(all(stem in found for stem in words(concept)) for concept in wanted)
        asked += len(wanted)
    return there / asked if asked else 0.0


def length_ratio(texts: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """Return words of all texts per word of their references; of several references the mean."""
    written = sum(len(words(text)) for text in texts)
    expected = sum(sum(len(words(each)) for each in own) / len(own) for own in references)
    return written / expected if expected else 0.0


def words(text: str) -> list[str]:
    """Return the words of a text in lower case, longer ones as their stems (Porter 1980)."""
    scorer()
    found = _WORD.findall(text.lower())
    return [_stem(word) if len(word) >= _SHORTEST_STEMMED else word for word in found]


@cache
def scorer() -> Any:
    """Return the ROUGE scorer. Raises `MissingExtraError` without the package rouge-score."""
    if RougeScorer is None:
        raise MissingExtraError(
            "ROUGE needs the package rouge-score, which is not installed; install it with: pip "
            "install "
            "'multistride[tasks]'"
        )
    return RougeScorer(["rouge1", "rouge2", "rougeL"], tokenizer=_Words())


class _Words:
    """`words` as rouge-score asks for them."""

    def tokenize(self, text: str) -> list[str]:
        """Return the words of a text."""
        return words(text)


@cache
def _stem(word: str) -> str:
    stem: str = PorterStemmer().stem(word)
    return stem
