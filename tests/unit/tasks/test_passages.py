"""Windows of long passages, and finding the right ones."""

import sys
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from multistride.decode.spans import borders
from multistride.errors import MissingExtraError
from multistride.tasks.answering.passages import retrieved, windows, words_of


def signs_and_words(text):
    return [
        text[first:last] for first, last in pairwise(borders(text)) if not text[first].isspace()
    ]


@settings(deadline=None)
@given(st.text("ab .,é華", max_size=60), st.integers(2, 9))
def test_windows_hold_every_word_and_every_short_run_of_words(text, words):
    # Guards: a window that is too long, a word lost at a border, an answer cut in two by all
    # windows.
    cut, all_words = windows(text, words), signs_and_words(text)
    assert all(len(signs_and_words(window)) <= words for window in cut)
    assert all(window in text for window in cut)
    listed = [signs_and_words(window) for window in cut]
    for run in range(1, words // 2 + 1):
        for first in range(len(all_words) - run + 1):
            wanted = all_words[first : first + run]
            assert any(wanted == each[at : at + run] for each in listed for at in range(len(each)))


TEXTS = [
    "The Normans ruled Sicily.",
    "Oxygen is a gas.",
    "The Rhine flows north.",
    "Harold fell at Hastings.",
]


def test_the_window_that_shares_words_with_the_question_comes_first():
    # Guards: ranks the wrong way round; words that no window has.
    assert retrieved("Where does the Rhine flow, quickly?", TEXTS, 2)[0] == 2
    assert retrieved("Who fell?", TEXTS, 1) == [3]


def test_a_question_of_unknown_words_gets_the_first_windows():
    # Guards: an exception of the library where no word of the question is in its index.
    assert retrieved("Xyzzy?", TEXTS, 2) == [0, 1]
    assert retrieved("?", ["", "."], 1) == [0]


def test_few_windows_need_no_library(monkeypatch):
    # Guards: an extra asked for where there is nothing to choose; and its name where there is.
    monkeypatch.setitem(sys.modules, "bm25s", None)
    assert retrieved("Who?", TEXTS, 4) == [0, 1, 2, 3]
    with pytest.raises(MissingExtraError, match=r"needs bm25s: pip install 'multistride\[tasks\]'"):
        retrieved("Who?", TEXTS, 3)


def test_words_of_scripts_without_blanks_are_characters():
    assert words_of("Das 首都, 1,5") == ["das", "首", "都", "1", "5"]
