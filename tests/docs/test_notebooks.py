"""The notebooks run from top to bottom and are stored without outputs.

Those that train nothing run here as their readers run them, in a kernel. The others take a minute
or two: `MULTISTRIDE_NOTEBOOKS=all pytest tests/docs/test_notebooks.py` runs them too.
"""

import json
import os
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "examples/notebooks").glob("*.ipynb"))
ALL = os.environ.get("MULTISTRIDE_NOTEBOOKS") == "all"
QUICK = [path for path in NOTEBOOKS if "train" not in path.stem and "write" not in path.stem]


def cells(path, kind):
    tree = json.loads(path.read_text(encoding="utf-8"))
    return [cell for cell in tree["cells"] if cell["cell_type"] == kind]


def test_there_are_five():
    assert [path.name[0] for path in NOTEBOOKS] == ["1", "2", "3", "4", "5"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_outputs_are_stripped_and_programs_compile(path):
    # Guards: an output that the code below no longer gives; a cell that is no Python.
    for cell in cells(path, "code"):
        assert cell["outputs"] == []
        assert cell["execution_count"] is None
        compile("".join(cell["source"]), str(path), "exec")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_links_lead_somewhere(path):
    for cell in cells(path, "markdown"):
        for target in re.findall(r"\]\(([^)\s]+)\)", "".join(cell["source"])):
            assert (path.parent / target).exists(), target


@pytest.mark.parametrize("path", NOTEBOOKS if ALL else QUICK, ids=lambda path: path.stem)
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
