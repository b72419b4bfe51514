"""The notebooks run from top to bottom and are stored without outputs.

Those that train nothing run here as their readers run them, in a kernel. The others take a minute
or two: `MULTISTRIDE_NOTEBOOKS=all pytest tests/docs/test_notebooks.py` runs them too. The Chinese
notebooks are not run, because their programs are those of the English ones.
"""

import json
import os
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "examples/notebooks").glob("*.ipynb"))
CHINESE = [path.parent / "zh" / path.name for path in NOTEBOOKS]
ALL = os.environ.get("MULTISTRIDE_NOTEBOOKS") == "all"
QUICK = [path for path in NOTEBOOKS if "train" not in path.stem and "write" not in path.stem]

EXERCISES = {
    "1": (
        1,
        "knows",
        ["True", "False", "j < i", "j <= i", "j // k <= i // k", "j < i - k + 1", "j <= i - k"],
    ),
    "2": (3, "steps", ["1", "n", "n / k", "n // k", "-(-n // k)", "-(-n // k) + (k == 1)"]),
    "3": (
        1,
        "mixes",
        [
            "True",
            "False",
            "text not in readings(number)",
            "{'and', 'thousand'} <= set(text.split()[:4])",
            "text.split()[:4] not in [reading.split()[:4] for reading in readings(number)]",
            "set(text.split()) <= set(' '.join(readings(number)).split())",
        ],
    ),
}
"""By notebook: the code cells that its exercise builds on, the function, and wrong answers."""
ARGUMENTS = {"knows": "i, j, k", "steps": "n, k", "mixes": "text, number"}


def all_cells(path):
    return json.loads(path.read_text(encoding="utf-8"))["cells"]


def source(cell):
    return "".join(cell["source"])


def cells(path, kind):
    return [cell for cell in all_cells(path) if cell["cell_type"] == kind]


def named(path):
    return f"zh-{path.stem}" if path in CHINESE else path.stem


def test_there_are_five():
    assert [path.name[0] for path in NOTEBOOKS] == ["1", "2", "3", "4", "5"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=named)
def test_both_languages_have_the_same_programs(path):
    # Guards: a program or a paragraph that was changed in one language only.
    english, chinese = all_cells(path), all_cells(path.parent / "zh" / path.name)
    assert [cell["cell_type"] for cell in english] == [cell["cell_type"] for cell in chinese]
    for here, there in zip(english, chinese, strict=True):
        if here["cell_type"] == "code":
            assert source(here) == source(there)
        else:
            program = r"^```\w+\n.*?^```$"
            flags = re.DOTALL | re.MULTILINE
            assert re.findall(program, source(here), flags) == re.findall(
                program, source(there), flags
            )
            assert re.search("[\u4e00-\u9fff]", source(there))


def test_chinese_notebooks_are_no_more_than_the_english_ones():
    assert sorted((ROOT / "examples/notebooks/zh").iterdir()) == CHINESE


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_course_names_notebooks_of_its_language(language):
    # Guards: a chapter that sends its reader to a notebook that was renamed.
    pages = (ROOT / "src/multistride/course/content" / language).glob("*.md")
    texts = [page.read_text(encoding="utf-8") for page in pages]
    named_there = sorted(
        path for text in texts for path in re.findall(r"`(examples/[^`]+\.ipynb)`", text)
    )
    expected = NOTEBOOKS if language == "en" else CHINESE
    assert named_there == [str(path.relative_to(ROOT)) for path in expected]


@pytest.mark.parametrize("path", NOTEBOOKS + CHINESE, ids=named)
def test_outputs_are_stripped_and_programs_compile(path):
    # Guards: an output that the code below no longer gives; a cell that is no Python.
    for cell in cells(path, "code"):
        assert cell["outputs"] == []
        assert cell["execution_count"] is None
        compile(source(cell), str(path), "exec")


@pytest.mark.parametrize("path", NOTEBOOKS + CHINESE, ids=named)
def test_links_lead_somewhere(path):
    for cell in cells(path, "markdown"):
        for target in re.findall(r"\]\(([^)\s]+)\)", source(cell)):
            assert (path.parent / target).exists(), target


@pytest.mark.parametrize("path", NOTEBOOKS if ALL else QUICK, ids=named)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_it_runs_from_top_to_bottom(path, monkeypatch):
    # Guards: an example that no longer fits the interface; its own assertions.
    nbclient = pytest.importorskip("nbclient")
    nbformat = pytest.importorskip("nbformat")
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    notebook = nbformat.read(path, as_version=4)
    resources = {"metadata": {"path": str(path.parent)}}
    client = nbclient.NotebookClient(notebook, timeout=900, resources=resources)
    client.execute()
    assert any(cell.get("outputs") for cell in notebook.cells)


@pytest.mark.parametrize("number", EXERCISES)
def test_an_exercise_takes_its_solution_and_nothing_else(number, capsys):
    # Guards: a solution that is wrong, and a check that a trivial answer passes.
    [path] = [path for path in NOTEBOOKS if path.name.startswith(number)]
    builds_on, function, wrong = EXERCISES[number]
    programs = [source(cell) for cell in cells(path, "code")]
    [exercise] = [program for program in programs if "def check(" in program]
    [solution] = [
        program
        for cell in cells(path, "markdown")
        for program in re.findall(r"<details>.*```python\n(.*?)```", source(cell), re.DOTALL)
    ]
    namespace = {}
    for program in programs[:builds_on]:
        exec(program, namespace)

    def verdict(answer):
        """Return the last line that the cell prints with `answer` in place of its function."""
        stored, mark, check = exercise.partition("\n\n\ndef check(")
        assert stored.startswith(f"def {function}({ARGUMENTS[function]}):\n")
        capsys.readouterr()
        exec((answer or stored) + mark + check, dict(namespace))
        return capsys.readouterr().out.splitlines()[-1]

    assert verdict(None).startswith("not yet: ")
    for returned in wrong:
        answer = f"def {function}({ARGUMENTS[function]}):\n    return {returned}"
        assert verdict(answer).startswith("not yet: "), returned
    assert solution.startswith(f"def {function}({ARGUMENTS[function]}):\n")
    assert verdict(solution.rstrip()) == "right"
