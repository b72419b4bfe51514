"""The code of docs/python.md runs as it stands there, and does what the page says."""

import re
from pathlib import Path

import pytest
from accelerate import Accelerator
from accelerate.state import AcceleratorState

from multistride.data.prepare import prepare
from multistride.data.prepare_pairs import CorpusFiles, PrepareConfig
from multistride.loading import load

PAGE = (Path(__file__).parents[2] / "docs/python.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


@pytest.fixture(scope="module")
def names():
    """What the page defines, from top to bottom."""
    found = {"__name__": "page"}
    for block in BLOCKS:
        exec(compile(block, "docs/python.md", "exec"), found)
    return found


def test_the_page_writes_what_the_command_writes(names):
    # Guards: a page whose names, options or results are others than those of the package.
    model = load()
    expected = model.translate(names["sentences"], group_size=8, mode="adaptive", threshold=0.5)
    assert [names["first"].text, names["second"].text] == [each.text for each in expected]
    assert len(names["scores"]) == len(names["first"].tokens) + 1
    reasons = [group.reason for group in names["result"].trace]
    assert reasons == [f"step {number}" for number in range(len(reasons))]


def test_a_training_is_called(names, tmp_path):
    # Guards: a recipe that no longer trains, or tells the monitor nothing.
    for name in ("source", "target"):
        (tmp_path / name).write_text("a b c d\nb c d e\nc d e f\n" * 20)
    files = (CorpusFiles(source=tmp_path / "source", target=tmp_path / "target"),)
    prepare(
        PrepareConfig(
            output=tmp_path / "data", train=files, validation=files, vocabulary_kind="words"
        )
    )
    AcceleratorState._reset_state(reset_partial_state=True)
    Accelerator(cpu=True, mixed_precision="no")  # of another training in this process
    best, losses = names["trained"](tmp_path / "data", tmp_path / "run", 3)
    assert len(losses) == 3
    [result] = load(best).translate(["a b c d"], group_size=4)
    assert result.problem is None
