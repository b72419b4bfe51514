"""Where sentences end."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as some

from multistride.data.sentences import _parts, ends_sentence, split_sentences


def test_parts_show_whether_a_text_ends_with_its_sentence():
    assert _parts("One. Two") == ["One.", "Two"]
    assert _parts("One. “Two.”") == ["One.", "“Two.”", ""]
    assert ends_sentence("One. “Two.”")
    assert not ends_sentence("One. Two,")


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("I forgot my I.D. card.", ["I forgot my I.D. card.", ""]),
        (
            "Er kam im 19. Jahrhundert. Dann ging er.",
            ["Er kam im 19. Jahrhundert.", "Dann ging er.", ""],
        ),
        ("z. B. Hunde. Und Katzen.", ["z. B. Hunde.", "Und Katzen.", ""]),
        ("Dr. No came at 5 p.m. and left.", ["Dr. No came at 5 p.m. and left.", ""]),
        ("It was in 1990. He left.", ["It was in 1990.", "He left.", ""]),
        ("Wait... what? No.", ["Wait... what?", "No.", ""]),
        ("He lives in the U.S.", ["He lives in the U.S."]),
    ],
)
def test_abbreviations_and_ordinals_do_not_end_sentences(text, parts):
    # Guards: "19." and "I.D." taken for ends, so that two wrong counts agree.
    assert _parts(text) == parts


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("One. Two! Three?", ["One.", "Two!", "Three?"]),
        ("“One.” “Two.” Three", ["“One.”", "“Two.”", "Three"]),
        ('"Why?" asked Tom. "So."', ['"Why?" asked Tom.', '"So."']),
        ("At No. 5 we stop. No. We go.", ["At No. 5 we stop.", "No.", "We go."]),
        (
            "Gen. Lee rode on Jan. 5, 1863. See pp. 7-8.",
            ["Gen. Lee rode on Jan. 5, 1863.", "See pp. 7-8."],
        ),
        ("hello. how are you?", ["hello.", "how are you?"]),
        ("well ... no. Wait … Yes", ["well ... no.", "Wait …", "Yes"]),
        ("他来了。你呢？我走了", ["他来了。", "你呢？", "我走了"]),
        ("他说：“好。”我走了。", ["他说：“好。”", "我走了。"]),
        ("Version 2.13.0 is out. See a.b.c!", ["Version 2.13.0 is out.", "See a.b.c!"]),
        ("no mark at all", ["no mark at all"]),
        ("  ", []),
    ],
)
def test_sentences_of_a_text(text, sentences):
    assert split_sentences(text) == sentences


@given(some.text("ab .!?…。？”\"'\n", max_size=40))
def test_nothing_but_blanks_between_sentences_is_lost(text):
    assert "".join("".join(split_sentences(text)).split()) == "".join(text.split())


def test_a_long_line_takes_time_in_proportion():
    # Guards: a look from the beginning of the text for every end: 2,000 sentences took 14 s.
    began = time.process_time()
    assert len(split_sentences("The dog runs in the park. " * 20_000)) == 20_000
    assert time.process_time() - began < 5
