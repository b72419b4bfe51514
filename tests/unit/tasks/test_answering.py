"""Questions as records: what is refused, what is read, how answers are judged; and a tiny model
that answers."""

from itertools import pairwise

import pytest
import torch

from multistride.data.vocab import train_vocabulary
from multistride.decode.options import DecodeOptions
from multistride.decode.spans import borders
from multistride.engines.eager import EagerStepModel
from multistride.errors import DataError, UsageError
from multistride.generator import Generator
from multistride.model.config import TransformerConfig
from multistride.model.transformer import Transformer
from multistride.tasks.answering.answerer import AnswerSettings, answering, whole_words
from multistride.tasks.answering.question import (
    CHAT,
    ENCODER,
    PROMPT,
    AnsweringTask,
    plain,
    stands_in,
)
from multistride.tasks.record import Answer, RecordError, solved
from multistride.translator import Translator

PASSAGE = (
    "The battle of Hastings in 1066 ended the reign of Harold.  William of Normandy then "
    "ruled\nEngland."
)
QUESTION = {
    "question": "Who ruled England?",
    "passage": PASSAGE,
    "answers": ["William", "William of Normandy"],
}
CHOICE = {
    "question": "Who ruled?",
    "choices": ["Harold", "William", "nobody at all"],
    "answer": "William",
}


class Spelling(EagerStepModel):
    """An eager engine with a name, as loaded ones have."""

    name = "eager"


def tiny(kind=Translator, **sizes):
    torch.manual_seed(1)
    vocabulary = train_vocabulary([PASSAGE, "question: passage: answer: Who ruled?"], 300, "bpe")
    layers = {
        "encoder_layers": 1 if kind is Translator else 0,
        "decoder_layers": 1,
        "feedforward_size": 32,
    }
    shape = {"hidden_size": 32, "heads": 2, "max_positions": 200, **layers, **sizes}
    config = TransformerConfig(
        vocabulary_size=len(vocabulary),
        max_group_size=4,
        group_sizes=(1, 2, 4),
        tie_embeddings=False,
        **shape,
    )
    model = Transformer(config).eval()
    with torch.no_grad():
        model.output.weight.mul_(3)
    return kind(Spelling(model), vocabulary)


def answered(model, records, **choices):
    names = AnswerSettings.model_fields.keys() & choices.keys()
    settings = AnswerSettings(**{name: choices.pop(name) for name in names})
    opened = answering(model, settings)
    way = opened.settle(DecodeOptions.made(**choices))
    return list(solved(opened, list(enumerate(records, start=1)), way))


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (
            {"question": "Who?"},
            "line 7: the question has neither a 'passage' to answer from nor 'choices': add one of",
        ),
        ({"question": "Who?", "passage": " "}, "line 7: the field 'passage' is blank"),
        ({"question": 3, "passage": "x"}, "line 7: the field 'question' is 3; it must be a text"),
        ({"passage": "x"}, "line 7: the field 'question' is missing; it has passage"),
        ({"question": "Who?", "choices": ["a"]}, "a list of two different texts or more"),
        ({"question": "Who?", "choices": ["a", "a"]}, "a list of two different texts or more"),
        ({"question": "Who?", "choices": "ab"}, "the field 'choices' is \"ab\"; it must be a list"),
        ({"question": "Who?", "choices": ["a", 3]}, "a list of two different texts or more"),
        (
            {"question": "Who?", "passage": "x", "answers": 3},
            "the answers are 3; they must be a list of texts",
        ),
    ],
)
def test_a_record_that_cannot_be_answered_says_why(record, message):
    with pytest.raises(RecordError, match=message.replace("[", r"\[")):
        AnsweringTask(ENCODER).example(record, 7)


def test_each_kind_of_model_is_asked_in_its_words():
    # Guards: blanks and line ends of a passage in a one-line source; the passage of a question
    # without one.
    task = AnsweringTask(ENCODER)
    example = task.example(
        {"question": "Who \n ran?", "passage": " Two\tdogs  ran. ", "answers": ["Two dogs"]}, 1
    )
    assert (example.source, example.target) == (
        "question: Who ran? passage: Two dogs ran.",
        ": Two dogs",
    )
    assert (
        ENCODER.read(": Two dogs")
        == PROMPT.read(" Two dogs\n")
        == CHAT.read("Two dogs")
        == "Two dogs"
    )
    assert ENCODER.asked("Who?", None) == "question: Who?"
    assert "passage" not in CHAT.asked("Who?", None).lower()


def test_figures_are_over_the_records_they_are_about():
    # Guards: choices that count as exact matches, or passages as wrong choices.
    answers = [
        Answer("William", {"steps": 1, "tokens": 3}),
        Answer("nowhere", {"steps": 2, "tokens": 3}),
        Answer("William"),
    ]
    figures = AnsweringTask(ENCODER).metrics(answers, [QUESTION, QUESTION, CHOICE])
    by_passage = {
        "exact_match": 0.5,
        "f1": 0.5,
        "in_passage": 0.5,
        "steps_per_answer": 1.5,
        "tokens_per_step": 2.0,
    }
    assert figures == {**by_passage, "accuracy": 1.0}
    with pytest.raises(DataError, match="neither 'answers' nor 'answer'"):
        AnsweringTask(ENCODER).refuse([{"question": "Who?", "passage": "x"}])


@pytest.mark.parametrize("kind", [Translator, Generator])
@pytest.mark.parametrize(
    "way", [{}, {"group_size": 4}, {"group_size": 2, "beam": 3}, {"group_size": 4, "mode": "exact"}]
)
def test_answers_are_whole_words_of_the_passage_in_every_way(kind, way):
    # Guards: a rule given to the wrong question, since batches are sorted by length; an opening
    # left in the answer.
    records = [{**QUESTION, "passage": PASSAGE[place:]} for place in (0, 14, 58)] + [QUESTION]
    for each in answered(tiny(kind), records, **way):
        passage = plain(each.record["passage"])
        places = borders(passage)
        assert any(passage[place:].startswith(each.answer.text) for place in places[:-1])
        assert any(passage[:place].endswith(each.answer.text) for place in places[1:])
        assert passage[each.answer.facts["start"] :].startswith(each.answer.text)


def test_an_answer_that_reached_its_limit_ends_with_a_whole_word():
    # Guards: half a word at the end of an answer that is too long.
    assert whole_words("along with defe", "Go along with defensive ends.") == "along with"
    assert whole_words("along with defensive", "Go along with defensive ends.") == (
        "along with defensive"
    )
    assert whole_words("defe", "Go along with defensive ends.") == "defe"
    for kind in (Translator, Generator):
        for tokens in range(1, 9):
            for each in answered(tiny(kind), [QUESTION] * 2, max_tokens=tokens):
                passage, text = plain(QUESTION["passage"]), each.answer.text
                ends = [passage[:place].endswith(text) for place in borders(passage)[1:]]
                assert any(ends) or " " not in text


def test_answers_copied_ahead_are_those_of_k1():
    # Guards: drafts that are not handed on; drafts of text that the rule for spans does not look
    # at.
    records = [{**QUESTION, "passage": PASSAGE[place:]} for place in (0, 14, 58)]
    alone = answered(tiny(Generator), records)
    ahead = answered(tiny(Generator), records, group_size=4, mode="exact", drafts="text")
    assert [each.answer.text for each in ahead] == [each.answer.text for each in alone]
    steps = [sum(each.answer.facts["steps"] for each in found) for found in (ahead, alone)]
    assert steps[0] < steps[1]


def test_exact_mode_chooses_as_k1_does():
    # Guards: choices scored in groups where K=1 is promised, which a model without groups cannot
    # do.
    alone, exact = (
        answered(tiny(Generator), [CHOICE], **way)
        for way in ({}, {"group_size": 4, "mode": "exact"})
    )
    assert exact[0].answer.facts == alone[0].answer.facts


def test_free_answers_are_those_of_the_model_alone():
    # Guards: a constraint that stays on.
    model = tiny()
    [free] = answered(model, [QUESTION], free=True, group_size=2, max_tokens=9)
    [written] = model.translate([ENCODER.asked(QUESTION["question"], PASSAGE)], 2, max_tokens=9)
    assert free.answer.text == ENCODER.read(written.text)
    assert not stands_in(free.answer.text, PASSAGE)


@pytest.mark.parametrize("kind", [Translator, Generator])
@pytest.mark.parametrize("group_size", [1, 4])
def test_the_choice_is_the_one_that_score_says(kind, group_size):
    # Guards: scores of another group size, a choice of the wrong index, an average of something
    # else.
    model, wording = tiny(kind), ENCODER if kind is Translator else PROMPT
    pairs = [
        (wording.asked(CHOICE["question"], None), wording.written(choice))
        for choice in CHOICE["choices"]
    ]
    scores = model.score(pairs, group_size)
    for choose, ranks in (
        ("average", [sum(row) / len(row) for row in scores]),
        ("total", list(map(sum, scores))),
    ):
        [found] = answered(model, [CHOICE], choose=choose, group_size=group_size)
        best = max(range(3), key=lambda place: ranks[place])
        assert (found.answer.text, found.answer.facts["choice"]) == (CHOICE["choices"][best], best)
        listed = [each[choose] for each in found.answer.facts["scores"]]
        assert listed == pytest.approx(ranks, abs=1e-3)


def test_a_long_passage_is_answered_from_the_windows_that_fit_it_best():
    # Guards: a passage that is refused or cut though its windows fit; the least probable window
    # winning.
    model = tiny(max_positions=64)
    long = {**QUESTION, "passage": "Nothing of note happened here today. " * 30 + PASSAGE}
    opened = answering(model, AnswerSettings(windows=3))
    example = opened.task.example(long, 1)
    [found] = opened.solve([example], opened.settle(DecodeOptions()))
    assert "ruled" in found.facts["window"]
    [window_alone] = answered(model, [{**QUESTION, "passage": found.facts["window"]}])
    assert (window_alone.answer.text, window_alone.answer.facts["score"]) == (
        found.text,
        found.facts["score"],
    )
    others = answered(
        model, [{**QUESTION, "passage": window} for window in [found.facts["window"], PASSAGE[:40]]]
    )
    assert found.facts["score"] >= others[0].answer.facts["score"]


def test_a_long_passage_without_blanks_is_cut_as_well():
    # Guards: one word, or windows of a few characters, where there are no blanks to count words by.
    model = tiny(max_positions=100)
    passage = "華沙是波蘭的首都。" * 40
    [found] = answered(model, [{"question": "波蘭", "passage": passage}])
    assert found.answer.facts["window"] in passage
    assert 15 < len(found.answer.facts["window"]) < 100


def test_a_passage_of_a_hundred_thousand_characters_is_answered():
    # Guards: all of it tokenized, or its windows counted again and again.
    model = tiny(max_positions=64)
    [found] = answered(model, [{**QUESTION, "passage": "Nothing of note. " * 6_000 + PASSAGE}])
    assert "England" in found.answer.facts["window"]


def test_one_question_that_is_too_long_stops_no_other():
    # Guards: an endless search for a window; an error that ends the batch.
    long = {"question": "who " * 500, "passage": PASSAGE}
    choices = {"question": "who " * 500, "choices": ["a", "b"]}
    first, second, third = answered(tiny(), [long, QUESTION, choices])
    assert "too long for the model, whatever the passage" in str(first.problem)
    assert second.answer is not None
    assert "with a choice, is too long" in str(third.problem)


def test_a_context_without_room_for_an_answer_is_a_problem_of_the_record():
    # Guards: a division by no room, or an answer that is cut off by the end of the context.
    [found] = answered(tiny(Generator, max_positions=20), [QUESTION])
    assert "too long for the model" in str(found.problem)


def test_settings_that_the_model_cannot_follow_are_refused():
    with pytest.raises(UsageError, match="group size 9 was asked for"):
        answering(tiny(), AnswerSettings()).settle(DecodeOptions(group_size=9))


def test_borders_of_the_passage_used_here_are_words():
    # Guards: the checks above, which would hold for any text if every place were a border.
    passage = plain(PASSAGE)
    assert max(last - first for first, last in pairwise(borders(passage))) > 5
