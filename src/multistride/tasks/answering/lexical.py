"""Answers without a model, to compare with: what words alone say.

The *best sentence* shares most words with the question, rare words of the passage counting more.
The *typed span* is the name, number or other run of words in it, or near it, that the question word
asks for and the question does not already say: the one that words of the question stand nearest to.
The *most frequent span* is the one that the whole passage names most often. Sources: the sliding
window with distances of Richardson, Burges and Renshaw 2013 (MCTest), which is also the baseline of
Rajpurkar et al. 2016, arXiv 1606.05250, section 5; here without a parser.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Sequence

from multistride.tasks.answering.passages import words_of
from multistride.tasks.answering.question import plain

SENTENCE_END = re.compile(r"(?<=[.!?])[\"')\]]*\s+")

_NUMBER = re.compile(r"[$€£]?\d[\d,.]*(?:\s(?:million|billion|thousand|percent|%))?")
_NAME = re.compile(r"[A-Z][\w'’-]*(?:\s(?:(?:of|the|de|and)\s)?[A-Z][\w'’-]*)*")
_RUN = re.compile(r"[\w'’-]+(?:\s[\w'’-]+){0,3}")
_ASKS_NUMBER = re.compile(
    r"\b(how (?:many|much|long|old|far|large|big)|when|what (?:year|percent\w*|date))\b"
)
_ASKS_NAME = re.compile(r"\b(who|whose|whom|where|which (?:city|country|person))\b")
_FUNCTION_WORDS = frozenset(
    words_of(
        "a an and are as at be been by did do does for from had has have he her his how in is it "
        "its of on or she"
        " that the their they this to was were what when where which who whom whose why will with"
    )
)


def best_sentence(question: str, passage: str) -> str:
    """Return the sentence that shares most with the question; the first of equally good ones."""
    sentences = _sentences(passage)
    return max(sentences, key=_weigher(question, sentences), default="")


def typed_span(question: str, passage: str) -> str:
    """Return the span of the best sentence that the question asks for, by its question word."""
    sentence, asked = best_sentence(question, passage), set(words_of(question))
    wanted = _wanted(question)
    for pattern in (wanted, _NAME, _RUN):
        spans = [match for match in pattern.finditer(sentence) if not _said(match[0], asked)]
        if spans:
            return max(
                spans, key=lambda match: (_nearness(sentence, match, asked), -match.start())
            )[0].strip(" .,")
    return sentence


def most_frequent_span(question: str, passage: str) -> str:
    """Return the name or number that the passage has most often and the question does not."""
    asked = set(words_of(question))
    spans = [
        match[0].strip(" .,")
        for pattern in (_NAME, _NUMBER)
        for match in pattern.finditer(plain(passage))
    ]
    counted = Counter(span for span in spans if not _said(span, asked))
    return max(counted, key=lambda span: counted[span], default=typed_span(question, passage))


def _sentences(passage: str) -> list[str]:
    return [sentence for sentence in SENTENCE_END.split(plain(passage)) if sentence]


def _weigher(question: str, sentences: Sequence[str]) -> Callable[[str], float]:
    """Return a function that weighs what a sentence shares with the question."""
    asked = set(words_of(question)) - _FUNCTION_WORDS
    found = Counter(word for sentence in sentences for word in set(words_of(sentence)))
    weights = {word: math.log(1 + len(sentences) / found[word]) for word in asked if word in found}
    return lambda sentence: math.fsum(weights.get(word, 0.0) for word in set(words_of(sentence)))


def _wanted(question: str) -> re.Pattern[str]:
    lowered = question.lower()
    if _ASKS_NUMBER.search(lowered):
        return _NUMBER
    return _NAME if _ASKS_NAME.search(lowered) else _RUN


def _said(span: str, asked: set[str]) -> bool:
    """Return whether a span says nothing that is not in the question."""
    return not set(words_of(span)) - asked - _FUNCTION_WORDS


def _nearness(sentence: str, match: re.Match[str], asked: set[str]) -> float:
    """Return the nearness of the question's words to a span: inverse distances in words, summed."""
    before, after = words_of(sentence[: match.start()])[::-1], words_of(sentence[match.end() :])
    near = asked - _FUNCTION_WORDS
    return sum(
        1 / place
        for side in (before, after)
        for place, word in enumerate(side, start=1)
        if word in near
    )
