"""Exact match and F1, by examples worked out by hand."""

import pytest

from multistride.metrics.answers import exact_match, f1, normalised


@pytest.mark.parametrize(
    ("text", "compared"),
    [
        ("The  Seljuk Turks.", "seljuk turks"),
        (
            "a theatre, an anthem",
            "theatre anthem",
        ),  # articles are words of their own, not beginnings
        ("don't", "dont"),
        ("1,066", "1066"),
        ("The", ""),
    ],
)
def test_texts_are_compared_as_squad_compares_them(text, compared):
    # Guards: an article cut out of a word; punctuation that becomes a blank.
    assert normalised(text) == compared


@pytest.mark.parametrize(
    ("given", "right", "match", "overlap"),
    [
        ("the Seljuk Turks", ["Seljuk Turks"], 1, 1),
        ("Turks", ["Seljuk Turks"], 0, 2 / 3),
        ("in 1066", ["1066", "in the year 1066"], 0, 0.8),  # the better of the two right answers
        ("no no", ["no"], 0, 2 / 3),  # repeated words count
        ("Normans", ["Turks"], 0, 0),
        ("the", ["a"], 1, 1),  # nothing is left of either
        ("", ["Turks"], 0, 0),
    ],
)
def test_exact_match_and_f1(given, right, match, overlap):
    assert exact_match(given, right) == match
    assert f1(given, right) == pytest.approx(overlap)


def test_without_a_right_answer_nothing_is_right():
    assert exact_match("x", []) == f1("x", []) == 0
