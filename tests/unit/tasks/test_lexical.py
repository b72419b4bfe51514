"""The baselines that know no model."""

import random

import pytest

from multistride.tasks.answering.lexical import best_sentence, most_frequent_span, typed_span

PASSAGE = (
    "The battle of Hastings was fought in 1066 near the town. Harold Godwinson fell there, and "
    "William won. "
    "Long after, William built a castle of 14 towers. The castle stands today."
)


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("When was the battle of Hastings fought?", "1066"),
        ("How many towers has the castle?", "14"),
        ("Who fell there?", "Harold Godwinson"),
        ("Who built a castle?", "William"),
    ],
)
def test_a_span_of_the_kind_that_is_asked_for(question, answer):
    # Guards: an answer that repeats the question; a number where a name is asked for.
    assert typed_span(question, PASSAGE) == answer


def test_rare_words_choose_the_sentence():
    # Guards: "the" and "castle", which stand in several sentences, counting as much as "stands".
    assert best_sentence("What castle stands today?", PASSAGE) == "The castle stands today."


def test_the_first_of_sentences_with_the_same_words():
    # Guards: a sum of weights in the order of a set, which rounds otherwise for the same words, and
    # otherwise in every run.
    words = [f"word{place}" for place in range(40)]
    rarer = [" ".join(words[: place + 1]) + "." for place in range(0, 40, 3)]
    chance = random.Random(3)
    same = [" ".join(["Now", *chance.sample(words, len(words))]) + "." for _ in range(60)]
    assert best_sentence(" ".join(words), " ".join([*same, *rarer])) == same[0]


def test_the_most_frequent_name_that_the_question_does_not_say():
    assert most_frequent_span("Who fell?", PASSAGE) == "William"
    assert most_frequent_span("Who was William?", PASSAGE) != "William"


@pytest.mark.parametrize("way", [best_sentence, typed_span, most_frequent_span])
def test_any_text_has_an_answer(way):
    # Guards: the maximum of nothing.
    assert way("Who?", "") == ""
    assert way("?", "Hm.") in ("Hm.", "Hm")
