"""Everything a person can get wrong: one line, the right exit code, no traceback, nothing half
written."""

import shutil
import subprocess
import sys

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


@pytest.mark.parametrize(
    ("group_size", "expected"), [("0", "0"), ("-1", "-1"), ("four", "'four'"), ("16", "16")]
)
def test_wrong_group_sizes(work, multistride, group_size, expected):
    # Guards: a K that is silently clipped, or that crashes deep inside.
    done = multistride(
        "translate", "--model", work / "many/best", f"--group-size={group_size}", text="a g m\n"
    )
    assert expected in one_line(done, 2)
    assert done.stdout == b""


@pytest.mark.parametrize("beam", ["0", "4000"])
def test_wrong_beams(work, multistride, beam):
    # Guards: a beam that is silently clipped, or that fails deep inside the search.
    done = multistride("translate", "--model", work / "many/best", f"--beam={beam}", text="a g m\n")
    assert beam in one_line(done, 2)
    assert done.stdout == b""


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--mode=sideways"], "'fast', 'adaptive' or 'exact' (given: 'sideways')"),
        (["--mode=exact", "--beam=2"], "choose mode fast, or beam 1"),
        (["--mode=adaptive", "--threshold=1.5"], "less than or equal to 1 (given: 1.5)"),
        (["--threshold=0.5"], "mode fast has none"),
        (["--top-k=5"], "at temperature 0 nothing is drawn"),
        (["--seed=5"], "at temperature 0 nothing is drawn"),
        (["--temperature=1", "--beam=2"], "beam 2 does not"),
    ],
)
def test_modes_that_are_none(work, multistride, options, said):
    # Guards: an unknown mode taken for the usual one, and two ways of searching asked for at once.
    done = multistride("translate", "--model", work / "many/best", *options, text="a g m\n")
    assert said in one_line(done, 2)


def test_no_model_directory(multistride, tmp_path):
    # Guards: a traceback for a mistyped path.
    assert "no model directory" in one_line(
        multistride("translate", "--model", tmp_path, text="a\n"), 4
    )
    assert "no model directory" in one_line(multistride("inspect", tmp_path / "nowhere"), 4)


def test_truncated_weights(work, multistride, tmp_path):
    # Guards: half a copy taken for a model.
    broken = tmp_path / "broken"
    shutil.copytree(work / "many/best", broken)
    weights = (broken / "model.safetensors").read_bytes()
    (broken / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    assert "truncated or corrupt" in one_line(
        multistride("translate", "--model", broken, text="a\n"), 4
    )


def test_unknown_configuration_key(work, multistride):
    # Guards: a typo in a configuration that is ignored.
    done = multistride(
        "train", work / "many.yaml", "--set", "training.updats=5", "--set", f"run={work / 'typo'}"
    )
    problem = one_line(done, 2)
    assert "'training.updats'" in problem
    assert "updates" in problem
    assert not (work / "typo").exists()


@pytest.mark.parametrize(
    ("source", "target", "expected"),
    [
        (b"", b"", "empty"),
        (b"\n\n\n", b"\n\n\n", "empty side"),
        (b"a\nb\n", b"a\n", "2"),
        (b"\xff\xfe\n", b"a\n", "invalid utf-8"),
    ],
)
def test_bad_training_text(multistride, tmp_path, source, target, expected):
    # Guards: misaligned or unreadable text that becomes a model.
    (tmp_path / "source").write_bytes(source)
    (tmp_path / "target").write_bytes(target)
    done = multistride(
        *("prepare", "--output", tmp_path / "data"),
        *("--train-source", tmp_path / "source", "--train-target", tmp_path / "target"),
    )
    assert expected in one_line(done, 4)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["source", "target"], (
        "something half written"
    )


def test_misaligned_evaluation_files(work, multistride, tmp_path):
    # Guards: BLEU of shifted lines.
    (tmp_path / "short").write_text("a\n")
    done = multistride(
        *("evaluate", "--model", work / "many/best", "--source", work / "validation.source"),
        *("--reference", tmp_path / "short"),
    )
    assert "16" in one_line(done, 4)


def test_full_disk(work, multistride):
    # Guards: half a result left behind, or a traceback, when the disk is full.
    done = multistride(
        "translate", "--model", work / "many/best", "--output", "/dev/full/x", text="a g m\n"
    )
    one_line(done, 1)
    shell = f"{sys.executable} -m multistride translate --model {work / 'many/best'} > /dev/full"
    done = subprocess.run(shell, shell=True, input=b"a g m\n", capture_output=True, check=False)
    assert "No space left" in one_line(done, 1)


def test_closed_pipe(work):
    # Guards: a traceback when the reader (`| head`) has seen enough.
    translate = (
        f"{sys.executable} -m multistride translate --model {work / 'many/best'} --engine eager"
    )
    shell = f"yes 'a g m' | head -3000 | {translate} | head -1"
    done = subprocess.run(shell, shell=True, capture_output=True, check=False)
    told = [line for line in done.stderr.splitlines() if not line.endswith(b" lines done")]
    assert told == [], "on a busy machine it says how far it is"
    assert len(done.stdout.splitlines()) == 1


def test_command_line_typos(multistride):
    # Guards: a usage error without the right exit code.
    assert "transalte" in one_line(multistride("transalte"), 2)
    assert "config" in one_line(multistride("train"), 2)
    assert "--no-such-option" in one_line(multistride("translate", "--no-such-option"), 2)
