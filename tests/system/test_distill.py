"""Distillation as its user runs it: killed at any moment, begun again, and its output mixed with
the real text."""

import json
import os
import random
import signal
import subprocess
import sys
import time

import pytest

pytestmark = pytest.mark.system


@pytest.fixture(scope="module")
def source(work):
    lines = (work / "train.source").read_text().splitlines()
    path = work / "long.source"
    path.write_text("".join(f"{line}\n" for line in lines * 20))
    return path


def arguments(work, source, output):
    return [
        *(
            "distill",
            "--model",
            work / "autoregressive/best",
            "--source",
            source,
            "--output",
            output,
        ),
        *("--chunk", 100, "--threads", 1),
    ]


def test_killed_at_any_moment_it_comes_out_the_same(work, source, multistride, tmp_path):
    # Guards: lines lost, doubled or moved by a crash, and anything left lying beside the output.
    multistride(*arguments(work, source, tmp_path / "whole"), check=0)
    chance = random.Random(3)
    command = [
        sys.executable,
        "-m",
        "multistride",
        *map(str, arguments(work, source, tmp_path / "output")),
    ]
    for _ in range(3):
        process = subprocess.Popen(
            command, stderr=subprocess.DEVNULL, env={**os.environ, "OMP_NUM_THREADS": "1"}
        )
        parts = tmp_path / "output.parts"
        deadline = time.monotonic() + 60
        while (
            not any(parts.glob("*.part")) and process.poll() is None and time.monotonic() < deadline
        ):
            time.sleep(0.01)
        time.sleep(chance.uniform(0, 0.5))
        process.send_signal(signal.SIGKILL)
        process.wait()
    if not (tmp_path / "output").exists():
        done = multistride(*arguments(work, source, tmp_path / "output"), check=0)
        assert b"lines are done already" in done.stderr
    assert (tmp_path / "output").read_bytes() == (tmp_path / "whole").read_bytes()
    assert {path.name for path in tmp_path.iterdir()} == {
        "whole",
        "whole.json",
        "output",
        "output.json",
    }
    manifest = json.loads((tmp_path / "output.json").read_text())
    assert manifest["lines"] == len(source.read_text().splitlines())


def test_ctrl_c_says_how_to_go_on(work, source, tmp_path):
    # Guards: a traceback, or a code that scripts cannot tell from a failure.
    slowly = (
        "--engine",
        "eager",
        "--batch-size",
        1,
    )  # many seconds of work: the signal cannot come after it
    given = map(str, (*arguments(work, source, tmp_path / "output"), *slowly))
    command = [sys.executable, "-m", "multistride", *given]
    process = subprocess.Popen(
        command, stderr=subprocess.PIPE, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    while not (tmp_path / "output.parts").exists() and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors.decode()
    assert b"the same command resumes" in errors
    assert b"Traceback" not in errors
    assert not (tmp_path / "output").exists()


def test_distilled_and_real_text_mix(work, source, multistride, tmp_path):
    # Guards: several corpora of one kind read as one, or the second one dropped.
    real, told = work / "train.target", tmp_path / "told"
    multistride(
        "distill",
        "--model",
        work / "autoregressive/best",
        "--source",
        work / "train.source",
        "--target",
        real,
        "--output",
        told,
        "--beam",
        2,
        "--engine",
        "eager",
        check=0,
    )
    done = multistride(
        *("prepare", "--output", tmp_path / "data", "--vocabulary", work / "data", "--json"),
        *("--train-source", work / "train.source", "--train-target", told),
        *("--train-source", work / "train.source", "--train-target", real),
        check=0,
    )
    lines = len(real.read_text().splitlines())
    counts = json.loads(done.stdout)["splits"]["train"]
    assert counts["read"] == 2 * lines
    assert 0 <= json.loads((tmp_path / "told.json").read_text())["changed_share"] <= 1


def test_a_file_of_somebody_else_stays(work, multistride, tmp_path):
    # Guards: OUTPUT.json of a person that the manifest replaces, where OUTPUT itself is new.
    mine = tmp_path / "out.json"
    mine.write_text('{"mine": 1}')
    command = arguments(work, work / "validation.source", tmp_path / "out")
    done = multistride(*command)
    assert done.returncode == 2
    assert b"out.json is there, which the manifest of" in done.stderr
    assert mine.read_text() == '{"mine": 1}'
    assert not (tmp_path / "out").exists()
    multistride(*command, "--overwrite", check=0)
    assert "output_sha256" in json.loads(mine.read_text())
    (tmp_path / "out").unlink()  # its own manifest is no file of somebody else
    multistride(*command, check=0)
