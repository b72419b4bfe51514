"""Variety and repetition of texts: figures that need no reference and no model.

Shares are 0–1. Texts are lists of tokens (or of words, where it says so).
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

from sacrebleu.metrics import BLEU

from multistride.errors import DataError

Text = Sequence[Hashable]

DISTANCES = (1, 2, 4, 8, 16)
"""How many tokens back a repetition is looked for: next to each other, within a group, beyond
one."""

SELF_BLEU_TEXTS = 200
"""Each text is compared with all others, which takes their number squared: so many are taken."""


def distinct(texts: Sequence[Text], length: int) -> float:
    """Return different runs of `length` tokens per run, over all texts, 0-1.

    Source: Li et al. 2016, arXiv 1510.03055, section 5.2.
    """
    runs = [
        tuple(text[place : place + length])
        for text in texts
        for place in range(len(text) - length + 1)
    ]
    return len(set(runs)) / len(runs) if runs else 0.0


def repeated(texts: Sequence[Text], length: int) -> float:
    """Return the share of runs of `length` tokens that the same text had before, 0-1."""
    again = total = 0
    for text in texts:
        runs = [tuple(text[place : place + length]) for place in range(len(text) - length + 1)]
        total += len(runs)
        again += len(runs) - len(set(runs))
    return again / total if total else 0.0


def repetition_rate(tokens: Sequence[Sequence[int]]) -> float:
    """Return the share of tokens equal to the token just before them, 0-1.

    The first token of a sequence counts but cannot repeat. This is the mark of tokens that were
    written together without seeing each other. `tokens` is ragged; sequences without tokens are
    legal, and if none has any the rate is 0.

    Raises `DataError` when there is no sequence.
    """
    if not tokens:
        raise DataError(
            "repetition_rate was given 0 sequences; it needs at least 1: check the output it is fed"
        )
    total = sum(len(sequence) for sequence in tokens)
    repeated = sum(
        sequence[index] == sequence[index - 1]
        for sequence in tokens
        for index in range(1, len(sequence))
    )
    return repeated / total if total else 0.0


def repetition_by_border(
    sentences: Sequence[Sequence[Sequence[int]]],
) -> tuple[float | None, float | None]:
    """Return the share of tokens equal to the one before them, at group borders and inside.

    Sentences are lists of groups of tokens. The first token of a sentence has no token before it
    and does not count; None where no token counts.
    """
    counts = {True: [0, 0], False: [0, 0]}
    for groups in sentences:
        before: int | None = None
        for group in groups:
            for place, token in enumerate(group):
                if before is not None:
                    counts[place == 0][0] += token == before
                    counts[place == 0][1] += 1
                before = token
    borders, inside = (
        repeated / total if total else None for repeated, total in (counts[True], counts[False])
    )
    return borders, inside


def repeated_at(texts: Sequence[Text], distance: int) -> float:
    """Return the share of tokens equal to the token `distance` before them, 0-1.

    Tokens with none so far before them count but cannot repeat, so distance 1 is the
    `repetition_rate`.
    """
    total = sum(map(len, texts))
    again = sum(
        text[place] == text[place - distance]
        for text in texts
        for place in range(distance, len(text))
    )
    return again / total if total else 0.0


def repetition_by_distance(texts: Sequence[Text]) -> dict[str, float]:
    """Return `repeated_at` for each of `DISTANCES`, by the distance as a text, as JSON has it."""
    return {str(distance): repeated_at(texts, distance) for distance in DISTANCES}


def self_bleu(texts: Sequence[str]) -> float | None:
    """Return the mean BLEU of each text against all others, 0-1; None for fewer than two texts.

    Of more than `SELF_BLEU_TEXTS` texts so many are taken, evenly spread: the figure rises with
    their number, so only those of equally many texts compare. Source: Zhu et al. 2018 (Texygen),
    arXiv 1802.01886, section 2.2; sacreBLEU's tokens and smoothing.
    """
    count = min(len(texts), SELF_BLEU_TEXTS)
    if count < 2:
        return None
    chosen = [texts[(2 * index + 1) * len(texts) // (2 * count)] for index in range(count)]
    metric = BLEU(effective_order=True)
    scores: list[float] = [
        metric.sentence_score(text, [*chosen[:place], *chosen[place + 1 :]]).score
        for place, text in enumerate(chosen)
    ]
    return sum(scores) / (100 * len(scores))
