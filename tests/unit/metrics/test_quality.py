"""Quality numbers against values worked out by hand."""

import math

import pytest

from multistride.errors import DataError, MissingExtraError, UsageError, UserError
from multistride.metrics import quality
from multistride.metrics.quality import (
    check_tokenizer,
    identical_share,
    measure_quality,
    perplexity,
)
from multistride.metrics.repetition import repetition_rate


def test_perfect_output():
    # guards: sacreBLEU's 100.00000000000004 leaking out as a score above its range
    result = measure_quality(["the cat sat on the mat"], ["the cat sat on the mat"])
    assert (result.bleu, result.chrf) == (100.0, 100.0)
    assert (result.exact_match, result.token_error_rate, result.length_ratio) == (1.0, 0.0, 1.0)


def test_bleu_by_hand():
    # guards: hypotheses and references swapped, or sentence scores averaged instead of corpus
    # counts
    result = measure_quality(["a b c d e", "x y z"], ["a b c d e f g", "x y z"])
    # every n-gram matches (precision 1), 8 tokens against 10: only the brevity penalty is left
    assert result.bleu == pytest.approx(100 * math.exp(1 - 10 / 8))
    assert result.length_ratio == pytest.approx(0.8)


def test_chrf_by_hand():
    # guards: chrF recall and precision swapped, or word n-grams counted
    result = measure_quality(["ab"], ["abc"])
    # 1-grams: precision 1, recall 2/3; 2-grams: precision 1, recall 1/2; no 3-grams in the
    # hypothesis
    precision, recall = 1.0, (2 / 3 + 1 / 2) / 2
    assert result.chrf == pytest.approx(100 * 5 * precision * recall / (4 * precision + recall))


def test_bleu_is_cased():
    # guards: a lowercased score reported as if it were the cased one
    result = measure_quality(["THE CAT SAT DOWN"], ["the cat sat down"])
    assert result.bleu == 0.0
    assert "case:mixed" in result.bleu_signature


def test_signatures_are_complete():
    # guards: a score without the settings that reproduce it, or the abbreviated form of them
    result = measure_quality(["a b c d"], ["a b c d"], tokenize="none")
    for part in ("nrefs:1", "eff:no", "tok:none", "smooth:exp", "version:"):
        assert part in result.bleu_signature
    for part in ("nrefs:1", "nc:6", "nw:0", "version:"):
        assert part in result.chrf_signature


def test_tokenize_reaches_bleu():
    # guards: the tokenizer argument dropped on the way: 13a splits the full stop, "none" does not
    hypotheses, references = ["one two three four."], ["one two three four ."]
    assert measure_quality(hypotheses, references).bleu == 100.0
    assert measure_quality(hypotheses, references, tokenize="none").length_ratio == pytest.approx(
        4 / 5
    )


def test_token_error_rate_by_hand():
    # guards: per-line rates averaged (would be 0.3125) and character edits (would be larger)
    result = measure_quality(["K AE T S", "D AO G"], ["K AH T", "D AO G Z"], tokenize="none")
    # line 1: one substitution, one insertion; line 2: one deletion; 7 reference phonemes
    assert result.token_error_rate == pytest.approx(3 / 7)


def test_token_error_rate_may_exceed_one():
    # guards: a rambling output clipped to 100 %
    assert measure_quality(["a a a a"], ["b"]).token_error_rate == 4.0


def test_exact_match_by_hand():
    # guards: counting tokens instead of lines
    assert measure_quality(["a b", "c", "d e"], ["a b", "x", "d e"]).exact_match == pytest.approx(
        2 / 3
    )


def test_empty_hypothesis_is_legal():
    # guards: a model that stops at once crashing its own evaluation
    result = measure_quality(["", ""], ["a b", "c"])
    assert (result.bleu, result.chrf, result.exact_match, result.length_ratio) == (
        0.0,
        0.0,
        0.0,
        0.0,
    )
    assert result.token_error_rate == 1.0


def test_unequal_counts():
    # guards: zip silently dropping the lines one side lacks
    with pytest.raises(DataError, match=r"2 hypotheses but 1 references"):
        measure_quality(["a", "b"], ["a"])


def test_no_lines():
    # guards: ZeroDivisionError, or a perfect score, for an empty test set
    with pytest.raises(DataError, match="at least 1"):
        measure_quality([], [])


def test_blank_references():
    # guards: a division by zero reference tokens
    with pytest.raises(DataError, match="2 references hold no tokens"):
        measure_quality(["a", "b"], ["", "  "])


def test_unknown_tokenizer():
    # guards: a KeyError traceback from sacreBLEU
    with pytest.raises(UsageError, match=r"'13b'.*13a"):
        measure_quality(["a"], ["a"], tokenize="13b")


def test_tokenizer_without_its_packages(monkeypatch):
    # guards: sacreBLEU's multi-line RuntimeError reaching the user
    class Uninstalled:
        TOKENIZERS = ("ja-mecab",)

        def __init__(self, tokenize):
            raise RuntimeError("\nplease install\n")

    monkeypatch.setattr(quality, "BLEU", Uninstalled)
    with pytest.raises(MissingExtraError, match=r"sacrebleu\[ja\]"):
        measure_quality(["a"], ["a"], tokenize="ja-mecab")


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [
        ([[5, 5, 6, 6, 6]], 3 / 5),
        ([[5, 6, 5, 6]], 0.0),
        ([[7, 7], [7, 8]], 1 / 4),
        ([[7], [7]], 0.0),
        ([[], [4, 4]], 1 / 2),
        ([[], []], 0.0),
    ],
)
def test_repetition_rate_by_hand(tokens, expected):
    # guards: repeats counted across sequences, or per pair instead of per token
    assert repetition_rate(tokens) == pytest.approx(expected)


def test_repetition_rate_of_nothing():
    # guards: 0 % repetition reported for an output that was never made
    with pytest.raises(DataError, match="0 sequences"):
        repetition_rate([])


def test_identical_share_by_hand():
    # guards: a shared prefix counted as identical, and lists told apart from tuples
    assert identical_share([[1, 2], [3], [4], []], [(1, 2), (3, 4), (5,), ()]) == pytest.approx(
        2 / 4
    )


def test_identical_share_unequal_counts():
    # guards: comparing runs over different test sets
    with pytest.raises(DataError, match=r"1 sequences but 2 sequences"):
        identical_share([[1]], [[1], [2]])


def test_identical_share_of_nothing():
    # guards: "0 of 0 identical" read as proof
    with pytest.raises(DataError, match="at least 1"):
        identical_share([], [])


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        ([math.log(0.5), math.log(0.125)], 4.0),
        ([], None),
        ([-1.0, -math.inf], None),
        ([-800.0], None),
    ],
)
def test_perplexity_by_hand(scores, expected):
    # guards: a token that is never written ending an evaluation of minutes in a traceback
    found = perplexity(scores)
    assert found is None if expected is None else found == pytest.approx(expected)


def test_a_tokenizer_that_cannot_be_downloaded_is_named(monkeypatch):
    # guards: a network that is missing reported as a fault of standard output
    def refused(tokenize):
        raise OSError("<urlopen error [Errno -3] no network>")

    refused.TOKENIZERS = quality.BLEU.TOKENIZERS
    monkeypatch.setattr(quality, "BLEU", refused)
    with pytest.raises(
        UserError, match=r"'flores200' downloads a model, which failed .*choose 13a"
    ):
        check_tokenizer("flores200")
