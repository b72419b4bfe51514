"""`multistride bench` as its user has it: the object, the files, the gate, and everything one can
get wrong."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.system


def one_line(done, code):
    """The error message of a failed command, after checking its manners."""
    errors = done.stderr.decode()
    assert done.returncode == code, errors
    assert "Traceback" not in errors
    problems = [line for line in errors.splitlines() if line.startswith("multistride: error:")]
    assert len(problems) == 1, errors
    return problems[0]


@pytest.fixture(scope="module")
def command(work):
    """Two contenders on the tiny model: its own K=1 and K=2, and CTranslate2."""
    files = ("--source", work / "validation.source", "--reference", work / "validation.target")
    amounts = (
        "--sentences",
        "6",
        "--rounds",
        "1",
        "--tokenize",
        "none",
        "--group-size",
        "1,2",
        "--batch-size",
        "1,4",
    )
    return ("bench", "--model", work / "many/best", *files, *amounts)


def test_result_files_and_gate(command, multistride, tmp_path):
    # Guards: a contract of names broken, a file left out, a gate that is heard too late to leave a
    # result.
    files = (
        "--output",
        tmp_path / "b.json",
        "--markdown",
        tmp_path / "b.md",
        "--picture",
        tmp_path / "b.svg",
    )
    others = (
        "--against",
        "own-k1,ctranslate2-int8",
        "--mode",
        "fast,exact",
        "--require",
        "k=2,own-k1>=1000",
    )
    done = multistride(*command, *others, *files, "--json")
    assert "measured" in one_line(done, 5)
    result = json.loads(done.stdout)
    assert json.loads((tmp_path / "b.json").read_text()) == result
    assert len(result["results"]) == 2 * 2 * 2
    for row in result["results"]:
        assert set(row["ratio_to"]) == {"own-k1", "ctranslate2-int8"}
        assert row["threads"] == 1
        assert row["cpu"]
        assert {
            "bleu",
            "bleu_signature",
            "chrf",
            "steps_per_sentence",
            "tokens_per_step",
            "ms_per_sentence_p50",
        } <= set(row)
        if row["mode"] == "exact" or row["group_size"] == 1:
            assert row["identical_to_k1"] == 1.0
    assert {row["name"] for row in result["baselines"]} == {"own-k1", "ctranslate2-int8"}
    assert "1 thread" in (tmp_path / "b.md").read_text().splitlines()[0]
    assert (tmp_path / "b.svg").read_text().startswith("<svg")


def test_another_model_without_references(command, work, multistride):
    # Guards: a second model that is compared under our name, quality made up where there is no
    # reference.
    arguments = [
        *command[: command.index("--reference")],
        *command[command.index("--reference") + 2 :],
    ]
    done = multistride(
        *arguments, "--against-model", work / "autoregressive/best", "--json", check=0
    )
    result = json.loads(done.stdout)
    assert {row["name"] for row in result["baselines"]} == {"own-k1", "against-model"}
    assert all(row["bleu"] is None for row in result["results"])
    assert all("against-model" in row["ratio_to"] for row in result["results"])


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (["--threads=4096"], 2, "--threads is 4096; this process may use"),
        (["--batch-size=some"], 2, "--batch-size takes whole numbers"),
        (["--against=ctranslate"], 2, "'ctranslate'; allowed are own-k1"),
        (["--against-model=nowhere"], 4, "no model directory"),
    ],
)
def test_bad_input(command, multistride, options, code, said):
    # Guards: a mistake that is no line on stderr; all others are in
    # tests/unit/evaluate/test_bench_request.py.
    sizes = "--batch-size=" in options[0]
    done = multistride(*(command[:-2] if sizes else command), *options)  # no option twice
    assert said in one_line(done, code)
    assert done.stdout == b""


def test_ctrl_c_leaves_nothing(command, tmp_path):
    # Guards: stopped workers that stay for ever, half a result, a traceback.
    many = list(map(str, command))
    many[many.index("--rounds") + 1] = "1000"
    arguments = [sys.executable, "-m", "multistride", *many]
    output = tmp_path / "b.json"
    process = subprocess.Popen(
        [*arguments, "--output", str(output)],
        stderr=subprocess.PIPE,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    for line in process.stderr:
        if b"round 2" in line:
            break
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    workers = children.read_text().split() if children.exists() else []
    process.send_signal(signal.SIGINT)
    rest = process.stderr.read().decode()
    assert process.wait(30) == 130, rest
    process.stderr.close()
    assert "Traceback" not in rest
    assert list(tmp_path.iterdir()) == []
    deadline = time.monotonic() + 10
    while (
        any(Path(f"/proc/{worker}").exists() for worker in workers) and time.monotonic() < deadline
    ):
        time.sleep(0.1)
    assert not any(Path(f"/proc/{worker}").exists() for worker in workers)
