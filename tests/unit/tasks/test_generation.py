"""Text generation as a task: records, figures, and what is refused."""

import math
from pathlib import Path
from types import SimpleNamespace

import pytest

from multistride.decode.hypothesis import Group
from multistride.decode.options import DecodeOptions
from multistride.errors import UsageError
from multistride.generator import Generator
from multistride.shipped import DEFAULT
from multistride.tasks import names
from multistride.tasks.generation.task import GenerationTask
from multistride.tasks.names import open_generation
from multistride.tasks.record import Opening, RecordError, read_records, solved
from multistride.translation import Translation

RECORD = {
    "source": "dog field run",
    "concepts": ["dog", "field", "run"],
    "references": ["A dog runs.", "Dogs run."],
}


def written(text, *groups):
    tokens = [token for group in groups for token in group]
    trace = tuple(Group(step, 2, group, (0.0,) * len(group)) for step, group in enumerate(groups))
    return Translation(text, tuple(tokens), (0.0,) * (len(tokens) + 1), trace)


class Teacher:
    """Half as probable with every token: perplexity 2."""

    def score(self, pairs):
        return [[math.log(0.5)] * len(text.split()) if text else None for _, text in pairs]


def test_figures_of_texts_small_enough_to_count():
    task = GenerationTask(Teacher())
    answers = [
        task.answer(written("a dog runs", (5, 6), (6,)), RECORD),
        task.answer(written("the dog", (5,)), RECORD),
    ]
    found = task.metrics(answers, [RECORD, RECORD])
    assert found["perplexity"] == pytest.approx(2.0)
    assert found["concept_coverage"] == pytest.approx(3 / 6), "dog and run; dog"
    assert found["repetition_rate"] == pytest.approx(1 / 4)
    assert found["tokens_per_step"] == pytest.approx(6 / 3), "tokens and both ends, in three steps"
    assert found["steps_per_text"] == pytest.approx(1.5)
    assert 0.5 < found["rouge_l"] < 1
    details = task.details(answers, [RECORD, RECORD])
    assert details["repetition_by_distance"]["1"] == pytest.approx(1 / 4)
    assert details["concept_coverage_of_references"] == pytest.approx(2 / 3), (
        "no reference has a field"
    )
    assert details["examples"][0]["text"] == "a dog runs"


def test_records_without_references_are_measured_by_the_rest():
    """Guards against one record without references taking the figures away from all others."""
    task = GenerationTask()
    bare = {"source": "a cat"}
    answers = [
        task.answer(written("A dog runs.", (5, 6)), RECORD),
        task.answer(written("x", (7,)), bare),
    ]
    found = task.metrics(answers, [RECORD, bare])
    assert found["rouge_l"] == pytest.approx(1.0)
    assert task.details(answers, [RECORD, bare])["with_references"] == 1
    assert "perplexity" not in found
    alone = task.metrics(answers[1:], [bare])
    assert "rouge_l" not in alone
    assert alone["distinct_1"] == 1.0


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"source": " "}, "line 4: the field 'source' is blank; it must be a text"),
        (
            {"references": []},
            r"line 4: the field 'references' is \[\]; it must be a list of at least one text",
        ),
        ({"references": "one"}, "line 4: the field 'references' is \"one\"; it must be a list"),
        (
            {"concepts": ["dog", 3]},
            r"line 4: the field 'concepts' is \[\"dog\", 3\]; it must be a list",
        ),
        ({"reference": "A dog."}, "line 4: it has 'reference' and 'references'"),
    ],
)
def test_bad_records_say_their_line_and_field(change, problem):
    with pytest.raises(RecordError, match=problem):
        GenerationTask().example({**RECORD, **change}, 4)


def test_a_long_record_is_a_problem_of_its_own():
    """Guards against a batch that ends at a source longer than the context."""
    opened = open_generation(Opening(model=DEFAULT))
    lines = [
        b'{"source": "Two dogs run."}',
        b'{"source": "' + b"dog " * 3000 + b'"}',
        b'{"source": "A man sings."}',
    ]
    way = opened.settle(DecodeOptions(group_size=4))
    results = list(solved(opened, read_records(lines), way))
    assert [each.answer is not None for each in results] == [True, False, True]
    assert "at most 255 are allowed" in str(results[1].problem)
    first = results[0].answer
    assert first.facts["steps"] == math.ceil(first.facts["written"] / 4)


def test_what_the_model_cannot_do_is_refused_before_anything_is_written():
    opened = open_generation(Opening(model=DEFAULT))
    with pytest.raises(UsageError, match="group size 9"):
        opened.settle(DecodeOptions(group_size=9))
    with pytest.raises(UsageError, match="goes with mode adaptive"):
        opened.settle(DecodeOptions(group_size=4, policy="cost-model"))


def test_a_teacher_of_another_kind_is_refused(monkeypatch):
    """Guards against perplexities of continuations beside those of translations."""
    real = names.load
    causal = Generator.__new__(Generator)
    causal.engine = SimpleNamespace(config=SimpleNamespace(encoder_layers=0))
    causal.directory = Path("causal")

    def load(directory, *rest):
        return causal if directory == Path("causal") else real(directory, *rest)

    monkeypatch.setattr(names, "load", load)
    with pytest.raises(
        UsageError,
        match="the teacher causal is a causal model and the model is a model with an enc",
    ):
        open_generation(Opening(model=DEFAULT, teacher=Path("causal")))
