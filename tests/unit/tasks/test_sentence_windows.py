"""Windows of sentences: whatever the model writes, a line has its own translation or none of
another's."""

import pytest
from hypothesis import given
from hypothesis import strategies as some

from multistride.decode.options import DecodeOptions
from multistride.errors import UsageError
from multistride.shipped import DEFAULT
from multistride.tasks.sentence_windows import (
    Counts,
    WindowTranslator,
    same_lines,
)
from multistride.translation import MOST_TEXT, Translation
from multistride.translator import Translator


@pytest.fixture(scope="module")
def translator():
    return Translator.load(DEFAULT)


DOCUMENT = [
    "The dog runs.",
    "A man sings.",
    "Where is the station?",
    "",
    "The sea is blue.",
    "A heading",
    "Two cats.",
]


def test_windows_end_at_blank_lines_and_where_a_border_could_not_be_found(translator):
    passages = WindowTranslator(translator, 3)
    windows = list(passages._windows(DOCUMENT))
    assert windows == [DOCUMENT[:3], [""], ["The sea is blue.", "A heading"], ["Two cats."]]
    assert list(WindowTranslator(translator, 2)._windows(DOCUMENT))[:2] == [
        DOCUMENT[:2],
        [DOCUMENT[2]],
    ]
    marked = WindowTranslator(translator, 3, " | ")
    assert list(marked._windows(DOCUMENT))[2] == DOCUMENT[4:], (
        "a separator of its own marks every border"
    )


@given(
    some.lists(some.sampled_from(["One.", "Two!", "tail", "", "  ", "Three? Four."]), max_size=12),
    some.integers(1, 4),
)
def test_every_line_is_in_one_window_and_in_order(lines, size):
    passages = WindowTranslator.__new__(WindowTranslator)
    passages.sentences, passages.separator = size, " "
    passages.encode = lambda texts: [[0]]
    passages.problem = lambda tokens: None
    windows = list(passages._windows(lines))
    assert [line for window in windows for line in window] == lines
    assert all(len(window) <= size for window in windows)


def test_a_window_does_not_outgrow_the_context(translator):
    """Guards against a long line that fails because its neighbours were put beside it."""
    long = "The dog runs across the field and sees " + "a cat and " * 60 + "a bird."
    assert list(WindowTranslator(translator, 4)._windows([long, long])) == [[long], [long]]


def test_a_line_longer_than_the_context_is_cut_at_its_sentences(translator):
    """Guards against a page on one line that is refused, or that loses sentences at its cuts."""
    sentences = ["The dog runs across the field.", "A man sings.", "Where is the station?"] * 20
    page = " ".join(sentences)
    passages = WindowTranslator(translator, 2)
    pieces = passages._pieces([page])
    assert " ".join(pieces) == page
    assert len(pieces) == 30
    alone, long = passages.translate(["A man sings.", page], group_size=4)
    assert alone.text == translator.translate(["A man sings."], group_size=4)[0].text
    assert long.problem is None
    assert len(long.scores) == sum(
        len(each.scores) for each in translator.translate(pieces, group_size=4)
    )
    [short] = translator.translate([page], group_size=4)
    assert short.problem.endswith("split it into sentences")


def test_a_sentence_longer_than_the_context_is_a_problem_of_its_line(translator):
    endless = "a cat and " * 200
    [result] = WindowTranslator(translator, 2).translate([f"A man sings. {endless}dog."])
    assert result.text == ""
    assert result.problem.startswith("one of its sentences: it has ")
    assert result.problem.endswith(" are allowed: split it")


def test_a_line_without_text_is_named_as_it_is_without_windows(translator):
    # Guards: the tokens of megabytes, which take gigabytes, where one text was never so long.
    lines = [b"A man sings.", b"A man. " * (MOST_TEXT // 7 + 1), b"\xff", b"Two cats."]
    plan = translator.plan(4)
    results = list(WindowTranslator(translator, 2).translate_lines(lines, plan))
    assert results == list(translator.translate_lines(lines, plan))
    assert [result.problem and result.problem[:18] for result in results] == [
        None,
        "it has 2,097,158 b",
        "it is not valid UT",
        None,
    ]


@pytest.mark.parametrize(
    ("text", "window", "cut"),
    [
        ("Eins. Zwei!", ["One.", "Two!"], ["Eins.", "Zwei!"]),
        ("„Eins.“ Zwei. Drei.", ["“One.”", "Two. Three."], ["„Eins.“", "Zwei. Drei."]),
        ("Eins. Zwei", ["One.", "Two"], ["Eins.", "Zwei"]),
        ("Eins, zwei.", ["One.", "Two."], None),
        ("Eins. Und. Zwei.", ["One.", "Two."], None),
        ("", ["One.", "Two."], None),
    ],
)
def test_a_translation_is_cut_at_its_sentences_or_not_at_all(translator, text, window, cut):
    assert WindowTranslator(translator, 4).cut(text, window) == cut


def test_a_separator_of_its_own_cuts_and_must_be_there_as_often(translator):
    marked = WindowTranslator(translator, 4, " | ")
    assert marked.cut("Eins | Zwei", ["One", "Two"]) == ["Eins", "Zwei"]
    assert marked.cut("Eins Zwei", ["One", "Two"]) is None
    assert marked.cut("Eins |", ["One", "Two"]) is None


def test_lines_stay_aligned_and_unsplit_windows_are_translated_line_by_line(
    translator, monkeypatch
):
    lines = [*(line.encode() for line in DOCUMENT), b"\xff"]
    options = DecodeOptions(group_size=4)
    alone = [
        result.text for result in translator.translate_lines(lines, translator.planned(options))
    ]
    passages = WindowTranslator(translator, 3)
    results = list(passages.translate_lines(lines, passages.planned(options)))
    assert len(results) == len(lines)
    assert [bool(result.text) for result in results] == [bool(text) for text in alone]
    assert results[-1].problem == "it is not valid UTF-8"
    assert passages.counts.windows == 2
    monkeypatch.setattr(
        WindowTranslator, "cut", lambda self, text, window: None if len(window) > 1 else [text]
    )
    apart = list(
        WindowTranslator(translator, 3).translate_lines(lines, translator.planned(options))
    )
    assert [result.text for result in apart] == alone


def test_windows_of_one_are_the_translator_itself(translator):
    options = DecodeOptions(group_size=2)
    lines = [line.encode() for line in DOCUMENT]
    assert list(
        WindowTranslator(translator, 1).translate_lines(lines, translator.planned(options))
    ) == list(translator.translate_lines(lines, translator.planned(options)))


def test_what_is_for_single_sentences_is_refused(translator):
    passages = WindowTranslator(translator, 3)
    with pytest.raises(
        UsageError, match="a prefix was given, which is for single sentences, and windows of 3 were"
    ):
        passages.planned(DecodeOptions(prefix="Der"))
    with pytest.raises(UsageError, match="a maximum length was given"):
        passages.planned(DecodeOptions(max_tokens=5))  # of a line, or of a window of three?
    with pytest.raises(UsageError, match="streaming was given"):
        passages.planned(DecodeOptions(), streaming=True)
    with pytest.raises(UsageError, match="windows of 0 sentences were asked for: choose 1 or more"):
        WindowTranslator(translator, 0)


@pytest.mark.parametrize(
    ("cut", "alone", "same"),
    [
        (["Er kam im 19.", "Jahrhundert. Er ging."], ["Er kam im 19. Jahrhundert.", "Er ging."], 0),
        (["Er kam im 19. Jahrhundert.", "Er ging."], ["Er kam im 19. Jahrhundert.", "Er ging."], 1),
        (["Der Hund bellt.", "Sie ist blau."], ["Der Hund bellt.", "Er ist blau."], 1),
        (["Er schlief.", "Dann aß er."], ["Geh.", "Er schlief, dann aß er."], 0),
        (["Das Meer ist blau.", "Der Hund bellt."], ["Der Hund bellt.", "Das Meer ist blau."], 0),
        (["Es sind 12.", "Es sind 7."], ["Es sind 7.", "Es sind 12."], 0),
        (["我喜欢猫。", "他在睡觉。"], ["我喜欢猫。", "他在睡觉。"], 1),
        (["他在睡觉。", "我喜欢猫。"], ["我喜欢猫。", "他在睡觉。"], 0),
    ],
)
def test_lines_of_a_window_are_compared_with_the_same_lines_alone(cut, alone, same):
    assert same_lines(cut, alone) == bool(same)


ALONE = {
    "The dog barks.": "Der Hund bellt laut.",
    "He was born in the 19th century.": "Geboren wurde Karl im 19. Jahrhundert.",
    "I forgot my I.D. card.": "Meinen Ausweis habe ich vergessen.",
    "Go.": "Geh.",
}
WORDS = [{"Hund", "bellt", "laut"}, {"Geboren", "Karl", "Jahrhundert"}, {"Ausweis", "vergessen"}]


@given(
    some.lists(some.sampled_from(list(ALONE)), min_size=1, max_size=6),
    some.lists(some.sampled_from([*" ".join(ALONE.values()).split(), ".", ". "]), max_size=24),
    some.integers(1, 3),
)
def test_no_line_has_words_of_another_whatever_the_model_writes(lines, noise, size):
    # Guards: a window that comes back with as many "sentences" as it had, cut elsewhere.
    passages = FakeWindows(size, lambda joined: ALONE.get(joined, " ".join(noise)))
    options = DecodeOptions()
    results = list(
        passages.translate_lines([line.encode() for line in lines], passages.planned(options))
    )
    assert len(results) == len(lines)
    for line, result in zip(lines, results, strict=True):
        own = set(ALONE[line].replace(".", "").split())
        strange = {word for words in WORDS for word in words} - own
        said = set(result.text.replace(".", " ").split())
        around = {word for other in lines for word in ALONE[other].replace(".", "").split()}
        assert not said & strange & around


class FakeModel(Translator):
    """A translator that is a function of text."""

    def written(self, texts, plan):
        return [Translation(self.model(text)) for text in texts]


class FakeWindows(WindowTranslator, FakeModel):
    """Windows over a model that is a function of text."""

    def __init__(self, sentences, model):
        self.sentences, self.separator, self.model = sentences, " ", model
        self.counts = Counts()

    def planned(self, options, *, streaming=False, auto=False):
        return None

    def encode(self, texts):
        return [[0] for _ in texts]

    def problem(self, tokens):
        return None


def test_a_line_of_blanks_longer_than_the_context(translator):
    # Guards: an IndexError on a line that has no sentence to be cut at.
    blanks = " " * 3000
    results = WindowTranslator(translator, 3).translate(["The dog runs.", blanks, "A man sings."])
    assert [bool(result.text) for result in results] == [True, False, True]
    assert results[1].problem is None


def test_the_buffer_does_not_decide_what_is_written(translator):
    # Guards: windows that end where a buffer happens to end, or never begin with --buffer 1.
    lines = [line.encode() for line in DOCUMENT * 3]
    options = DecodeOptions(group_size=4)
    whole = [
        r.text
        for r in WindowTranslator(translator, 3).translate_lines(lines, translator.planned(options))
    ]
    for buffer in (1, 2, 5):
        passages = WindowTranslator(translator, 3)
        assert [
            r.text for r in passages.translate_lines(lines, passages.planned(options), buffer)
        ] == whole
        assert passages.counts.windows == 6


def test_a_complete_window_is_translated_before_the_next_line_is_read(translator):
    # Guards: an answer that waits for a line which may never come.
    read = []

    def lines():
        for line in DOCUMENT:
            read.append(line)
            yield line.encode()

    results = WindowTranslator(translator, 3).translate_lines(
        lines(), translator.planned(DecodeOptions()), 1
    )
    next(results)
    assert len(read) == 3
