"""A few of the kills of `kills.py`, in a process of its own: it forks, and replaces functions."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.system


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no fork")
def test_a_killed_command_ends_as_one_that_was_not(tmp_path):
    # Guards: weights, best, metrics or outputs that differ after a kill, and leftovers of it.
    script = Path(__file__).with_name("kills.py")
    command = [
        sys.executable,
        str(script),
        "--kills",
        "8",
        "--output",
        str(tmp_path / "kills.json"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    result = json.loads((tmp_path / "kills.json").read_text())
    assert result["kills"] == 8
    assert result["differences"] == []
