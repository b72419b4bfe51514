"""The commands of docs/decoding.md run as they stand there."""

import re
import shlex
import shutil
from pathlib import Path

import pytest

pytestmark = pytest.mark.system

PAGE = Path(__file__).parents[2] / "docs/decoding.md"
COMMANDS = [
    line
    for block in re.findall(r"```sh\n(.*?)```", PAGE.read_text(), re.DOTALL)
    for line in block.splitlines()
]


def run_as_shell(multistride, command, cwd, model):
    """Run a line of the page; only `<`, `>` and `&& cat FILE` need a shell there. Return stdout."""
    line, _, shown = command.partition(" && cat ")
    words = shlex.split(line.replace("$MODEL", str(model)))
    streams = {}
    for sign in ("<", ">"):
        if sign in words:
            place = words.index(sign)
            streams[sign] = cwd / words[place + 1]
            del words[place : place + 2]
    assert words.pop(0) == "multistride"
    text = streams["<"].read_bytes() if "<" in streams else b""
    written = multistride(*words, text=text, cwd=cwd, check=0).stdout
    if ">" in streams:
        streams[">"].write_bytes(written)
    return (cwd / shown).read_text() if shown else written.decode()


def test_every_command_of_the_page_runs(work, multistride, tmp_path):
    # Guards: an option renamed, a way of decoding that no longer goes with another.
    assert len(COMMANDS) >= 9
    for name in ("source", "target"):
        shutil.copy(work / f"validation.{name}", tmp_path / f"{name}.txt")
    model = tmp_path / "model"
    shutil.copytree(work / "many/best", model)
    lines = len((tmp_path / "source.txt").read_text().splitlines())
    for command in COMMANDS:
        written = run_as_shell(multistride, command, tmp_path, model)
        if command.startswith(("multistride translate", "multistride score")):
            assert len(written.splitlines()) == lines, command
    assert (tmp_path / "trace.jsonl").stat().st_size
    assert "<html" in (tmp_path / "result.html").read_text()
    assert (model / "calibration.json").stat().st_size
    assert all((tmp_path / name).read_text().startswith("<svg") for name in ("look.svg", "why.svg"))
