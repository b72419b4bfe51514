"""Quality of texts against one reference a line: BLEU, chrF, error rates, length.

Shares and rates are 0–1; BLEU and chrF are 0–100 and travel with the sacreBLEU signature that
makes them reproducible (Post, "A Call for Clarity in Reporting BLEU Scores", WMT 2018).
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from rapidfuzz.distance import Levenshtein
from sacrebleu.metrics import BLEU, CHRF

from multistride.errors import DataError, MissingExtraError, UsageError, UserError


@dataclass(frozen=True)
class Quality:
    """The quality of one decoding of a test set.

    bleu              corpus BLEU, 0–100, on raw cased text
    bleu_signature    sacreBLEU's full signature of `bleu`
    chrf              corpus chrF2, 0–100
    chrf_signature    sacreBLEU's full signature of `chrf`
    exact_match       share of hypotheses equal to their reference, character for character, 0–1
    token_error_rate  edits per reference token, 0 or more; above 1 when the output rambles
    length_ratio      hypothesis length / reference length, in the tokens BLEU counted
    """

    bleu: float
    bleu_signature: str
    chrf: float
    chrf_signature: str
    exact_match: float
    token_error_rate: float
    length_ratio: float


def measure_quality(hypotheses: list[str], references: list[str], tokenize: str = "13a") -> Quality:
    """Score `hypotheses` against `references`, line by line in the same order.

    `tokenize` names the sacreBLEU tokenizer for BLEU; `"none"` counts whitespace tokens as they
    are, which is what phonemes want. An empty hypothesis is legal: all of its reference is missing.

    Raises `DataError` when the two lists differ in length, hold no lines, or the references hold
    no token at all; `UsageError` for a tokenizer sacreBLEU does not have; `MissingExtraError` for
    one whose own dependencies are not installed.
    """
    _check_pairs(len(hypotheses), len(references), "hypotheses", "references")
    error_rate = _token_error_rate(hypotheses, references)
    bleu_metric = _bleu_metric(tokenize)
    bleu = bleu_metric.corpus_score(hypotheses, [references])
    chrf_metric = CHRF()
    chrf = chrf_metric.corpus_score(hypotheses, [references])
    matches = sum(
        hypothesis == reference
        for hypothesis, reference in zip(hypotheses, references, strict=True)
    )
    return Quality(
        bleu=_at_most_100(bleu.score),
        bleu_signature=bleu_metric.get_signature().format(),
        chrf=_at_most_100(chrf.score),
        chrf_signature=chrf_metric.get_signature().format(),
        exact_match=matches / len(references),
        token_error_rate=error_rate,
        length_ratio=float(bleu.ratio),
    )


def identical_share(first: Sequence[Sequence[int]], second: Sequence[Sequence[int]]) -> float:
    """Return the share of sequences whose tokens are all equal in `first` and `second`, 0-1.

    Raises `DataError` when the two hold different numbers of sequences, or none.
    """
    _check_pairs(len(first), len(second), "sequences", "sequences to compare with")
    return sum(list(one) == list(other) for one, other in zip(first, second, strict=True)) / len(
        first
    )


def perplexity(log_probabilities: Sequence[float]) -> float | None:
    """Return the perplexity of tokens: e to the mean of their negative log-probabilities, in nats.

    None without tokens, and where it is infinite or too large for a number.
    """
    if not log_probabilities:
        return None
    mean = -math.fsum(log_probabilities) / len(log_probabilities)
    return math.exp(mean) if mean < math.log(sys.float_info.max) else None


def _token_error_rate(hypotheses: list[str], references: list[str]) -> float:
    """Levenshtein edits over whitespace tokens, summed over the corpus, per reference token.

    With phonemes as tokens this is the phoneme error rate, with words the word error rate.
    """
    edits = 0
    reference_tokens = 0
    for hypothesis, reference in zip(hypotheses, references, strict=True):
        expected = reference.split()
        edits += Levenshtein.distance(hypothesis.split(), expected)
        reference_tokens += len(expected)
    if reference_tokens == 0:
        raise DataError(
            f"the {len(references)} references hold no tokens, only blank lines; "
            "at least 1 token is needed: check the reference file"
        )
    return edits / reference_tokens


def check_tokenizer(tokenize: str) -> None:
    """Raise `UsageError` for a tokenizer that sacreBLEU does not have, before anything is measured.

    Raises `MissingExtraError` for one whose own dependencies are not installed, `UserError` for one
    that cannot be downloaded.
    """
    _bleu_metric(tokenize)


def _bleu_metric(tokenize: str) -> BLEU:
    if tokenize not in BLEU.TOKENIZERS:
        allowed = ", ".join(BLEU.TOKENIZERS)
        raise UsageError(
            f"unknown BLEU tokenizer {tokenize!r} (--tokenize); sacreBLEU has {allowed}: choose one"
        )
    try:
        return BLEU(tokenize=tokenize)
    except (
        ImportError,
        RuntimeError,
    ) as error:  # sacreBLEU reports a missing tokenizer package either way
        extra = tokenize.split("-", maxsplit=1)[0]
        raise MissingExtraError(
            f"the BLEU tokenizer {tokenize!r} needs packages that are not installed; "
            f"install them with: pip install 'sacrebleu[{extra}]'"
        ) from error
    except OSError as error:
        raise UserError(
            f"the BLEU tokenizer {tokenize!r} downloads a model, which failed ({error}): connect "
            "to the network, or choose 13a, zh or char"
        ) from error


def _at_most_100(score: float) -> float:
    """Undo rounding: sacreBLEU scores a perfect corpus a hair above 100."""
    return min(float(score), 100.0)


def _check_pairs(first: int, second: int, first_name: str, second_name: str) -> None:
    if first != second:
        raise DataError(
            f"{first} {first_name} but {second} {second_name}; line i of one belongs to line i of "
            "the other: "
            "pass equally many"
        )
    if first == 0:
        raise DataError(
            f"0 {first_name} and 0 {second_name}; at least 1 is needed: check the input"
        )
