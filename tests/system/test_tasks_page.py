"""The new task of docs/tasks.md is run as it stands there, by the code that runs every task."""

import json
import re
from pathlib import Path

import pytest

from multistride.decode.options import DecodeOptions
from multistride.errors import DataError, UsageError
from multistride.evaluate.request import EvaluationRequest
from multistride.evaluate.run import evaluate_task
from multistride.tasks import names
from multistride.tasks.record import Answer
from multistride.tasks.translation.task import TranslationTask

pytestmark = pytest.mark.system

PAGE = (Path(__file__).parents[2] / "docs/tasks.md").read_text()
[EXAMPLE] = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


def test_the_example_is_a_task(work, tmp_path, monkeypatch, caplog):
    # Guards: a page whose example no longer fits the interface, or grew beyond 40 lines.
    assert len(EXAMPLE.splitlines()) <= 40
    (tmp_path / "page_example.py").write_text(EXAMPLE)
    monkeypatch.chdir(tmp_path)
    records = [
        {"word": "agm", "phonemes": "m g a"},
        {"word": "a7", "phonemes": "a"},
        {"word": "bhn", "phonemes": "n h b"},
    ]
    source = tmp_path / "words.jsonl"
    source.write_text("".join(json.dumps(record) + "\n" for record in records))
    name = "page_example:open_pronunciation"
    request = EvaluationRequest(task=name, source=source, name="words")
    ways = [DecodeOptions(group_size=size) for size in (1, 2)]
    task = names.task_named(name)
    result = evaluate_task(request, ways, task, work / "many/best")
    said = [record.message for record in caplog.records]
    assert "line 2: the word 'a7' has other signs than letters: leave them out" in said
    assert (result.conditions["records"], result.conditions["failed"]) == (2, 1)
    assert [row.group_size for row in result.rows] == [1, 2]
    assert all(0 <= row.metrics["exact"] <= 1 for row in result.rows)
    source.write_text('{"word": "agm", "phonemes": "m"}\n{"word": "its"}\n')
    with pytest.raises(DataError, match=r"words\.jsonl: line 2: the record has no 'phonemes'"):
        evaluate_task(request, ways, task, work / "many/best")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("page_nothing:open", "there is no module page_nothing, neither installed nor in"),
        ("json:open_nothing", "the module json has no open_nothing"),
        ("nothing", "name one of these, or your own as module:function"),
        ("json:", "name one of these, or your own as module:function"),
    ],
)
def test_a_task_that_is_not_there_is_one_line(name, said):
    with pytest.raises(UsageError, match=said):
        names.task_named(name)


def test_the_table_names_the_fields_that_translation_reads():
    # Guards: a page that says `reference` where the task wants `target`.
    [fields] = re.findall(r"^\| `translation` \| (.*?) \|", PAGE, re.MULTILINE)
    record = dict.fromkeys(re.findall(r"`(\w+)`", fields), "a b")
    task = TranslationTask()
    assert task.example(record, 1).target == "a b"
    assert task.metrics([Answer("a b")], [record])["chrf"] == 100.0
    with pytest.raises(DataError, match="a record has source and no 'target'"):
        task.refuse([{"source": "a b"}])
