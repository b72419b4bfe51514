"""Texts of several sentences: each is translated as it is alone."""

import pytest

from multistride.decode.options import DecodeOptions
from multistride.errors import UsageError
from multistride.shipped import DEFAULT
from multistride.tasks.sentences import SentenceTranslator
from multistride.translation import Translation, joined_sentences
from multistride.translator import Translator


@pytest.fixture(scope="module")
def translator():
    return Translator.load(DEFAULT)


@pytest.mark.parametrize("choices", [{}, {"group_size": 4}, {"group_size": 4, "mode": "exact"}])
def test_a_sentence_reads_as_it_does_alone(translator, choices):
    # Guards: sentences of one text under another, blank texts that take a translation.
    sentences = ["The dog runs.", "Where is the station?", "A man sings."]
    texts = [" ".join(sentences), "", sentences[1], f"{sentences[2]}  {sentences[0]}", "  "]
    alone = translator.translate(sentences, **choices)
    dog, station, man = (each.text for each in alone)
    found = SentenceTranslator(translator).translate(texts, **choices)
    assert [each.text for each in found] == [
        f"{dog} {station} {man}",
        "",
        station,
        f"{man} {dog}",
        "",
    ]
    assert found[0].tokens == tuple(token for each in alone for token in each.tokens)
    assert len(found[0].trace) == sum(len(each.trace) for each in alone)


def test_lines_too(translator):
    sentences = SentenceTranslator(translator)
    plan = sentences.planned(DecodeOptions())
    lines = [b"A man sings. The dog runs.\n", b"\xff\n", b"A man sings.\n"]
    both, bad, one = sentences.translate_lines(lines, plan)
    assert both.text.startswith(f"{one.text} ")
    assert "UTF-8" in bad.problem


def test_a_text_with_a_sentence_too_long_says_so(translator):
    [result] = SentenceTranslator(translator).translate(["A man sings. " + "a cat and " * 200])
    assert result.text == ""
    assert result.problem.startswith("one of its sentences: it has ")
    assert result.problem.endswith(" are allowed: split it")


def test_what_is_for_single_sentences_is_refused(translator):
    said = "a stop text was given, which is for single sentences, and texts of several sentences"
    with pytest.raises(UsageError, match=said):
        SentenceTranslator(translator).planned(DecodeOptions(stop=(".",)))


def test_one_unfinished_sentence_leaves_its_text_unfinished():
    parts = [Translation("a", ending="limit"), Translation("b", ending="end")]
    assert joined_sentences(parts) == Translation("a b", ending="limit")
    assert joined_sentences(parts[1:]) is parts[1]
