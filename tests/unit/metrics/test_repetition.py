"""How varied texts are: figures counted by hand."""

import pytest

from multistride.metrics.repetition import (
    distinct,
    repeated,
    repeated_at,
    repetition_by_distance,
    repetition_rate,
    self_bleu,
)


def test_distinct_counts_over_all_texts():
    """Guards against shares taken text by text, which long and short texts would change."""
    assert distinct([[1, 2, 1], [1, 3]], 1) == pytest.approx(3 / 5)
    assert distinct([[1, 2, 1], [1, 2]], 2) == pytest.approx(2 / 3)
    assert distinct([[1]], 2) == 0.0


def test_repeated_counts_inside_one_text():
    """Guards against a run that stands in two texts taken for a loop."""
    assert repeated([[1, 2, 1, 2, 1], [1, 2]], 2) == pytest.approx(2 / 5)
    assert repeated([[1, 2], [1, 2]], 2) == 0.0
    assert repeated([[]], 4) == 0.0


def test_repetition_at_a_distance_does_not_see_other_distances():
    """Guards against counting any earlier occurrence: "1 2 1 2" repeats at distance 2 and not at
    1."""
    assert repeated_at([[1, 2, 1, 2]], 2) == pytest.approx(2 / 4)
    assert repeated_at([[1, 2, 1, 2]], 1) == 0.0
    assert repeated_at([[1], [1]], 1) == 0.0, "texts do not see each other"
    assert repeated_at([], 1) == 0.0


def test_distance_one_is_the_repetition_rate_of_every_other_table():
    texts = [[1, 1, 2, 2, 2], [3], []]
    assert repetition_by_distance(texts)["1"] == pytest.approx(repetition_rate(texts))


def test_self_bleu_is_one_for_equal_texts_and_lower_for_others():
    same = ["a dog runs across the field ."] * 3
    other = [
        "a dog runs across the field .",
        "two people eat cake today",
        "the sea was blue and still",
    ]
    assert self_bleu(same) == pytest.approx(1.0)
    found = self_bleu(other)
    assert found is not None
    assert found < 0.3
    assert self_bleu(["alone"]) is None
