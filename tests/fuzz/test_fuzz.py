"""A few seconds of `fuzz.py`, in a process of its own: it measures its memory."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.system


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no alarm signals")
def test_mutated_files_are_read_or_refused(tmp_path):
    # Guards: a traceback, a hang or a gigabyte of memory for a damaged or hostile file.
    script, place = Path(__file__).with_name("fuzz.py"), tmp_path / "fuzz.json"
    command = [sys.executable, str(script), "--inputs", "500", "--output", str(place)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-2000:]
    result = json.loads(place.read_text())
    assert result["inputs"] == 500
    assert result["faults"] == []
