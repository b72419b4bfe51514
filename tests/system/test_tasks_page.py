"""The new task of docs/tasks.md is run as it stands there, by the code that runs every task."""

import json
import re
from pathlib import Path

import pytest
from multistride.evaluate.tasks import TaskEvaluation, evaluate_task

from multistride.tasks import names

pytestmark = pytest.mark.system

PAGE = (Path(__file__).parents[2] / "docs/tasks.md").read_text()
[EXAMPLE] = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


def test_the_example_is_a_task(work, tmp_path, monkeypatch):
    # Guards: a page whose example no longer fits the interface, or grew beyond 40 lines.
    assert len(EXAMPLE.splitlines()) <= 40
    monkeypatch.setattr(names, "TASKS", dict(names.TASKS))
    exec(compile(EXAMPLE, "docs/tasks.md", "exec"), {"__name__": "example"})
    records = [
        {"word": "agm", "phonemes": "m g a"},
        {"word": "a7"},
        {"word": "bhn", "phonemes": "n h b"},
    ]
    source = tmp_path / "words.jsonl"
    source.write_text("".join(json.dumps(record) + "\n" for record in records))
    said = []
    asked = {
        "task": "pronunciation",
        "model": work / "many/best",
        "source": source,
        "name": "words",
    }
    result = evaluate_task(
        TaskEvaluation.model_validate({**asked, "group_sizes": (1, 2)}), said.append
    )
    assert "line 2: the word 'a7' has other signs than letters: leave them out" in said
    assert (result.records, result.failed) == (2, 1)
    assert [row.group_size for row in result.results] == [1, 2]
    assert all(0 <= row.metrics["exact"] <= 1 for row in result.results)
