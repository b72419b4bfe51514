"""ROUGE, concepts and lengths."""

import pytest
from rouge_score.rouge_scorer import RougeScorer

from multistride.errors import MissingExtraError
from multistride.metrics import overlap
from multistride.metrics.overlap import bleu, concept_coverage, length_ratio, rouge, words

TEXTS = ["The dogs are running over a green field.", "A man cooks dinner"]
REFERENCES = [
    ["A dog runs across the field.", "The dogs were running."],
    ["The man is cooking a dinner for two."],
]


def test_rouge_of_ascii_is_that_of_the_package_with_its_own_words():
    """Guards the words of our own: on ASCII the published figure must come out."""
    theirs = RougeScorer(["rouge1", "rouge2", "rougeL"], use_stemmer=True)
    pairs = list(zip(TEXTS, REFERENCES, strict=True))
    for name, ours in zip(("rouge1", "rouge2", "rougeL"), rouge(TEXTS, REFERENCES), strict=True):
        expected = [
            max(theirs.score(each, text)[name].fmeasure for each in own) for text, own in pairs
        ]
        assert ours == pytest.approx(sum(expected) / 2)


def test_other_letters_make_words_too():
    """Guards against 0 for every text that is not English: the package's own tokenizer drops all
    but a to z."""
    assert rouge(["Über die Brücke"], [["Über die Brücke"]]).rouge_l == 1.0
    assert words("Ein schöner_Tag, 你好") == ["ein", "schöner", "tag", "你好"]


def test_an_empty_text_scores_nothing_and_stops_nothing():
    assert rouge(["", "a dog"], [["a dog"], ["a dog"]]).rouge_1 == pytest.approx(0.5)
    assert concept_coverage([""], [["dog"]]) == 0.0
    assert length_ratio([""], [["a dog"]]) == 0.0


def test_concepts_are_found_by_their_stems():
    assert concept_coverage(["The dogs are running"], [["dog", "run", "cat"]]) == pytest.approx(
        2 / 3
    )


def test_length_ratio_takes_the_mean_of_several_references():
    assert length_ratio(["one two three"], [["one two", "one two three four"]]) == pytest.approx(
        1.0
    )


def test_bleu_takes_any_number_of_references():
    """Guards against texts of fewer references being compared with empty ones."""
    score, signature = bleu(
        ["the dog ran over the field", "a man cooks"],
        [["x y", "the dog ran over the field"], ["a man cooks"]],
    )
    assert score == pytest.approx(100.0)
    assert "nrefs:var" in signature


def test_without_the_package_the_extra_is_named(monkeypatch):
    overlap.scorer.cache_clear()
    monkeypatch.setattr(overlap, "RougeScorer", None)
    with pytest.raises(MissingExtraError, match=r"multistride\[tasks\]"):
        overlap.check_rouge()
    overlap.scorer.cache_clear()
