"""Short sentences as people type them, and as answers, for the model that ships."""

import random
import sys
from collections import Counter
from pathlib import Path
from runpy import run_path

import pytest

EXAMPLE = Path(__file__).parents[2] / "examples" / "english-german"


@pytest.fixture(scope="module")
def example():
    sys.path.insert(0, str(EXAMPLE))
    try:
        return run_path(str(EXAMPLE / "as_typed.py"))
    finally:
        sys.path.remove(str(EXAMPLE))


def test_words_inside_sentences_are_counted(example):
    counts = example["inside"](['Ich sage: Danke. Lass uns gehen, lass "Tom" hier.'])
    assert counts["lass"] == counts["gehen"] == 1
    assert counts["Danke"] == counts["Lass"] == counts["Ich"] == counts['"Tom"'] == 0


def test_statements_become_answers(example):
    # Guards: a capital behind a comma, a name or noun without one, "Sie" that becomes "sie",
    # questions, and answers to answers.
    english = Counter({"thanks": 3, "the": 3, "Tom": 2, "you": 2})
    german = Counter({"danke": 3, "das": 2, "Tom": 2, "sie": 9})
    pairs = [
        ("Thanks.", "Danke!"),
        ("Tom sings.", "Tom singt."),
        ("You may go.", "Sie dürfen gehen."),
        ("Who is it?", "Wer ist es?"),
        ("Yes, it is.", "Ja, so ist es."),
    ]
    made = list(example["answered"](pairs * 100, english, german, random.Random(1)))
    words = example["ANSWERS"].items()
    ends = [("thanks.", "danke!"), ("Tom sings.", "Tom singt.")]
    assert set(made) == {
        (f"{one}, {source}", f"{other}, {target}")
        for one, other in words
        for source, target in ends
    }
    assert 45 < len(made) < 90, "about one of three"
