"""The commands of docs/decoding.md run as they stand there."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.system

PAGE = Path(__file__).parents[2] / "docs/decoding.md"
COMMANDS = [
    line
    for block in re.findall(r"```sh\n(.*?)```", PAGE.read_text(), re.DOTALL)
    for line in block.splitlines()
]


def test_every_command_of_the_page_runs(work, tmp_path):
    # Guards: an option renamed, a way of decoding that no longer goes with another.
    assert len(COMMANDS) >= 9
    for name in ("source", "target"):
        shutil.copy(work / f"validation.{name}", tmp_path / f"{name}.txt")
    model = tmp_path / "model"
    shutil.copytree(work / "many/best", model)
    binaries = Path(sys.executable).parent
    environment = {
        **os.environ,
        "MODEL": str(model),
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
        "OMP_NUM_THREADS": "1",
        "PATH": f"{binaries}{os.pathsep}{os.environ['PATH']}",
    }
    lines = len((tmp_path / "source.txt").read_text().splitlines())
    for command in COMMANDS:
        done = subprocess.run(
            command, shell=True, cwd=tmp_path, capture_output=True, env=environment, timeout=120
        )
        assert done.returncode == 0, (command, done.stderr.decode())
        if command.startswith(("multistride translate", "multistride score")):
            assert len(done.stdout.decode().splitlines()) == lines, command
    assert (tmp_path / "trace.jsonl").stat().st_size
    assert "<html" in (tmp_path / "result.html").read_text()
    assert (model / "calibration.json").stat().st_size
    assert all((tmp_path / name).read_text().startswith("<svg") for name in ("look.svg", "why.svg"))
