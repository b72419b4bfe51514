"""Constraints, resumable files and traces by the command, and everything one can get wrong about
them."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

pytestmark = pytest.mark.system


def one_line(done, code):
    """The error message of a failed command, after checking its manners."""
    errors = done.stderr.decode()
    assert done.returncode == code, errors
    assert "Traceback" not in errors
    [problem] = [line for line in errors.splitlines() if line.startswith("multistride: error:")]
    return problem


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--max-tokens=0"], "greater than or equal to 1 (given: 0)"),
        (["--max-tokens=99"], "this checkpoint has 32 positions: choose one from 1 to 32"),
        (["--min-tokens=9", "--max-tokens=5"], "at most 5 tokens: choose a smaller one"),
        (
            ["--prefix=r j c r j c", "--max-tokens=4"],
            "the prefix has 6 tokens and a translation at most 4",
        ),
        ([f"--prefix={'a ' * 40}"], "the prefix has 40 tokens and a translation at most 32"),
        (["--prefix=nonsense"], "a word that this vocabulary lacks"),
        (["--prefix=r j", "--stop=j"], "a stop text: drop one of them"),
        (["--prefix=r j", "--ban=r"], "a banned text: drop one of them"),
        (["--ban="], "an empty text matches everywhere"),
        (["--stop="], "an empty text matches everywhere"),
        (["--ban-token=2"], "ends a sentence and cannot be banned: give min_tokens instead"),
        (["--ban-token=900"], "choose one"),
        (["--no-repeat-ngram=-1"], "greater than or equal to 0 (given: -1)"),
        (["--threshold=1.5", "--mode=adaptive"], "less than or equal to 1 (given: 1.5)"),
        (["--threshold=-0.1", "--mode=adaptive"], "greater than or equal to 0 (given: -0.1)"),
        (["--group-size=9"], "this checkpoint was trained for 1, 2: choose one from 1 to 2"),
        (["--beam=2", "--stream"], "choose beam 1, or translate without streaming"),
    ],
    ids=lambda given: " ".join(given) if isinstance(given, list) else "",
)
def test_what_cannot_be_asked_is_refused_in_one_line(work, multistride, options, said):
    # Guards: an option out of range or against another one that is ignored, or that fails deep
    # inside.
    done = multistride("translate", "--model", work / "many/best", *options, text="a g m\n")
    assert said in one_line(done, 2)
    assert done.stdout == b""


@pytest.mark.parametrize(
    "way", [[], ["--mode=exact"], ["--beam=2"], ["--temperature=1", "--mode=exact"], ["--stream"]]
)
def test_rules_by_the_command(work, multistride, way):
    # Guards: an option that does not reach the decoder, in any way of decoding.
    command = ["translate", "--model", work / "many/best", "--group-size", 2, *way]
    given = multistride(
        *command, "--prefix", "r j", "--max-tokens", 8, text="a g m\nb h n\n", check=0
    )
    assert all(line.startswith("r j") for line in given.stdout.decode().splitlines())
    rules = [
        "--ban",
        "g",
        "--min-tokens",
        3,
        "--stop",
        "never met",
        "--no-repeat-ngram",
        2,
        "--ban-token",
        7,
    ]
    lines = (
        multistride(*command, *rules, text="a g m\nb h n\n", check=0).stdout.decode().splitlines()
    )
    assert len(lines) == 2
    assert all("g" not in line and len(line.split()) >= 3 for line in lines)


def translation(work, source, output, *others):
    command = [
        "translate",
        "--model",
        work / "many/best",
        "--input",
        source,
        "--output",
        output,
        "--batch-size",
        1,
        "--engine",
        "eager",  # the slow one: it is to be stopped before its end
    ]
    return [sys.executable, "-m", "multistride", *map(str, [*command, "--buffer", 5, *others])]


def begun(command, parts):
    """A process that translates a file and has finished at least one part of it."""
    process = subprocess.Popen(
        command, stderr=subprocess.PIPE, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    while not any(parts.glob("*.part")):
        assert process.poll() is None, process.communicate()[1].decode()
        time.sleep(0.005)
    return process


@pytest.fixture(scope="module")
def source(work, tmp_path_factory):
    """Many lines, one of them no UTF-8."""
    lines = (work / "train.source").read_bytes().splitlines() * 2
    lines[1] = b"\xff\xfe"
    path = tmp_path_factory.mktemp("lines") / "source"
    path.write_bytes(b"".join(line + b"\n" for line in lines))
    return path


@pytest.fixture(scope="module")
def whole(work, source, tmp_path_factory):
    """Their translation, written without a stop."""
    path = tmp_path_factory.mktemp("whole") / "output"
    done = subprocess.run(translation(work, source, path), capture_output=True, check=False)
    assert done.returncode == 4, "one line cannot be translated"
    return path.read_bytes()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_stopped_file_goes_on_where_it_stopped(work, source, whole, tmp_path, number):
    # Guards: lines lost, doubled or moved, work done twice, anything left beside the output.
    command = translation(work, source, tmp_path / "output")
    process = begun(command, tmp_path / "output.parts")
    process.send_signal(number)
    errors = process.communicate(timeout=60)[1].decode()
    assert not (tmp_path / "output").exists(), "it was too fast to be stopped"
    if number == signal.SIGINT:
        assert process.returncode == 130
        assert "the same command resumes" in errors
        assert "Traceback" not in errors
    other = subprocess.run([*command, "--group-size", "2"], capture_output=True, check=False)
    assert "begun with other settings (group_size was 1, is 2)" in one_line(other, 2)
    done = subprocess.run(command, capture_output=True, check=False)
    assert b"lines are done already" in done.stderr
    assert "1 of the lines could not be translated" in one_line(done, 4)
    assert (tmp_path / "output").read_bytes() == whole
    assert {path.name for path in tmp_path.iterdir()} == {"output"}


def test_a_file_as_from_standard_input(work, source, multistride, tmp_path):
    # Guards: another text, or another format, by the way that can be resumed.
    text = b"".join(source.read_bytes().splitlines(keepends=True)[:12])
    (tmp_path / "few").write_bytes(text)
    for form in ([], ["--json"], ["--show-groups"]):
        command = ["translate", "--model", work / "many/best", "--group-size", 2, *form]
        plain = multistride(*command, text=text, check=4).stdout
        multistride(
            *command,
            "--input",
            tmp_path / "few",
            "--output",
            tmp_path / "out",
            "--buffer",
            5,
            check=4,
        )
        assert (tmp_path / "out").read_bytes() == plain
    same = multistride(*command, "--input", tmp_path / "few", "--output", tmp_path / "few")
    assert "is also read" in one_line(same, 2)
    assert (tmp_path / "few").read_bytes() == text


@pytest.mark.parametrize("way", [[], ["--stream"]], ids=["batches", "stream"])
def test_an_interrupted_trace_is_whole_lines(work, source, tmp_path, way):
    # Guards: half a JSON object at the end of a trace, or a trace that is lost with the
    # interruption.
    trace = tmp_path / "trace.jsonl"
    command = [
        sys.executable,
        "-m",
        "multistride",
        "translate",
        "--model",
        str(work / "many/best"),
        "--buffer",
        "4",
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with open(source, "rb") as lines:
        process = subprocess.Popen(
            [*command, "--trace", str(trace), *way],
            stdin=lines, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=environment,
        )  # fmt: skip
        while not (trace.exists() and trace.stat().st_size):
            assert process.poll() is None, process.communicate()[1].decode()
            time.sleep(0.005)
        process.send_signal(signal.SIGINT)
        errors = process.communicate(timeout=60)[1].decode()
    assert process.returncode == 130, errors
    assert "Traceback" not in errors
    text = trace.read_text()
    assert text.endswith("\n")
    entries = [json.loads(line) for line in text.splitlines()]
    assert 0 < len({entry["line"] for entry in entries}) < len(source.read_bytes().splitlines())


def test_a_trace_on_a_full_disk(work, multistride):
    # Guards: a traceback, or the trace blamed on the output.
    done = multistride(
        "translate", "--model", work / "many/best", "--trace", "/dev/full", text="a g m\n"
    )
    assert "could not write /dev/full: No space left on device" in one_line(done, 1)
