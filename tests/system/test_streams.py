"""Standard streams as a shell hands them over: closed, full, broken, in other encodings.

PYTHONUNBUFFERED hides half of these faults, so it is never set here.
"""

import json
import os
import pty
import signal
import subprocess
import sys
import time

import pytest

pytestmark = pytest.mark.system

MARK = "\N{BOX DRAWINGS LIGHT VERTICAL}"
"""The bar of --show-groups, which only UTF-8 can write."""


@pytest.fixture
def environment(tmp_path):
    hidden = ("PYTHONUNBUFFERED", "PYTHONIOENCODING", "PYTHONUTF8")
    rest = {name: value for name, value in os.environ.items() if name not in hidden}
    return {**rest, "OMP_NUM_THREADS": "1", "XDG_CACHE_HOME": str(tmp_path / "cache")}


@pytest.fixture
def shell(environment, tmp_path):
    """Run a line in a shell, where `$m` is the command."""

    def run(line, **changes):
        return subprocess.run(
            ["bash", "-c", line],
            capture_output=True,
            cwd=tmp_path,
            timeout=120,
            env={**environment, "m": f"{sys.executable} -m multistride", **changes},
        )

    return run


def diagnostics(done):
    """Return the lines of stderr, less the one that says which engine decodes."""
    lines = done.stderr.decode().splitlines()
    return [line for line in lines if not line.startswith("engine: ")]


def one_line(done, code):
    errors = done.stderr.decode()
    assert done.returncode == code, errors
    [line] = diagnostics(done)
    assert line.startswith("multistride: error: ")
    return line


def test_closed_standard_input(shell):
    # Guards: a traceback, and a file that is opened as descriptor 0 and read as input.
    assert "standard input is closed: give --input" in one_line(shell("$m translate <&-"), 2)


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_streams_that_are_not_used(shell, tmp_path, closed):
    # Guards: exit 1 after success; diagnostics in the output, which had got descriptor 2.
    (tmp_path / "in").write_bytes(b"Go.\n\xff\nGo.\n")
    done = shell(f"$m translate --input in --output out {closed}")
    assert done.returncode == 4, "one line cannot be translated"
    first, empty, last = (tmp_path / "out").read_text().splitlines()
    assert first == last != ""
    assert empty == ""
    assert done.stdout == b""


def test_closed_standard_output_is_an_error_of_verbs_that_write_there(shell):
    # Guards: exit 0 with the result nowhere.
    assert "standard output is closed" in one_line(shell("echo Go. | $m translate >&-"), 1)
    assert "standard output is closed" in one_line(shell("$m models --json >&-"), 1)
    assert "standard output is closed" in one_line(shell("$m --version >&-"), 1)


def test_closed_standard_error_keeps_data_and_exit_code(shell):
    # Guards: diagnostics mixed into the data.
    done = shell("printf 'Go.\\n\\xff\\n' | $m translate --group-size 3 2>&-")
    assert done.returncode == 4
    assert [bool(line) for line in done.stdout.splitlines()] == [True, False]
    assert shell("$m translate --no-such 2>&-").returncode == 2


@pytest.mark.parametrize(
    "line",
    ["echo Go. | $m translate", "$m models", "$m models --json", "$m --help", "$m --version"],
)
def test_full_standard_output(shell, line):
    # Guards: a traceback of forty lines, and exit code 120 of an interpreter that cannot flush.
    assert "No space left on device" in one_line(shell(f"{line} >/dev/full"), 1)


def test_full_standard_error_costs_nothing(shell):
    done = shell("echo Go. | $m translate --group-size 3 2>/dev/full")
    assert done.returncode == 0
    assert done.stdout.strip()


@pytest.mark.parametrize(
    "line",
    ["yes Go. | head -3000 | $m translate --buffer 100", "$m translate --help", "$m models --json"],
)
def test_a_reader_that_has_seen_enough(shell, line):
    # Guards: a traceback or an error, where `| head -1` is how one looks.
    done = shell(f"{line} | head -1; exit ${{PIPESTATUS[-2]}}")
    assert (done.returncode, diagnostics(done)) == (0, [])
    assert len(done.stdout.splitlines()) == 1


@pytest.mark.parametrize("options", ["--output", "--output /dev/null --trace"])
def test_a_reader_of_dev_stdout_that_has_left(shell, options):
    # Guards: "Broken pipe: free space" and exit code 1, where standard output itself gives 0.
    done = shell(f"echo Go. | $m translate {options} /dev/stdout | true; exit ${{PIPESTATUS[1]}}")
    assert (done.returncode, diagnostics(done)) == (0, [])


@pytest.mark.parametrize(
    "locale",
    [
        {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"},
        {"PYTHONIOENCODING": "ascii"},
        {"PYTHONIOENCODING": "latin-1"},
    ],
    ids=["C", "ascii", "latin-1"],
)
def test_output_is_utf_8_in_every_locale(shell, locale):
    # Guards: a traceback, or Latin-1 bytes which the next program reads as something else.
    done = shell("echo 'I am older.' | $m translate --show-groups --group-size 4", **locale)
    assert done.returncode == 0, done.stderr.decode()
    assert MARK in done.stdout.decode("utf-8")
    assert "älter" in done.stdout.decode("utf-8")
    done = shell("$m translate --model nirgends-größer", **locale)
    assert "nirgends-gr" in one_line(done, 4)


def test_a_byte_order_mark_on_stdin_is_none_of_the_text(shell, tmp_path):
    # Guards: a mark that files lose and stdin keeps, and that changes the translation.
    (tmp_path / "marked").write_bytes(b"\xef\xbb\xbfI am older.\nGo.\n")
    marked = shell("$m translate < marked").stdout
    assert marked == shell("$m translate --input marked").stdout
    assert marked == shell("printf 'I am older.\\nGo.\\n' | $m translate").stdout


def test_lines_are_answered_while_stdin_stays_open(environment):
    # Guards: an answer that waits in a buffer until the other side gives up.
    command = [sys.executable, "-m", "multistride", "translate", "--buffer", "1"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment
    ) as process:
        for text in (b"Go.\n", b"I am older.\n"):
            process.stdin.write(text)
            process.stdin.flush()
            assert process.stdout.readline().strip()
        process.stdin.close()
        assert process.wait(30) == 0


def test_windows_are_answered_while_stdin_stays_open(environment):
    # Guards: --window with --buffer 1, which joined nothing.
    command = [sys.executable, "-m", "multistride", "translate", "--window", "2", "--buffer", "1"]
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment,
    ) as process:
        process.stdin.write(b"Go.\nI am older.\n")
        process.stdin.flush()
        assert process.stdout.readline().strip()
        assert process.stdout.readline().strip()
        assert "1 windows of several lines" in process.communicate(timeout=30)[1].decode()


def test_a_terminal_is_answered_line_by_line(environment):
    # Guards: a first try of the command that seems to hang.
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "multistride", "translate"]
    with subprocess.Popen(
        command, stdin=theirs, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment
    ) as process:
        os.write(ours, b"Go.\n")
        assert process.stdout.readline().strip()
        os.write(ours, b"\x04")
        assert "Ctrl-D ends" in process.communicate(timeout=30)[1].decode()
    os.close(ours)
    os.close(theirs)


PAIRS = ("--source", "in", "--reference", "in", "--output", "out")
TRAINING = ("--train-source", "in", "--train-target", "in", "--output", "out")


@pytest.mark.parametrize(
    ("number", "verb"),
    [
        (signal.SIGINT, ("translate", "--output", "out")),
        (signal.SIGTERM, ("translate", "--output", "out")),
        (signal.SIGHUP, ("translate", "--output", "out")),
        (signal.SIGTERM, ("translate", "--input", "in", "--output", "out")),
        (signal.SIGHUP, ("evaluate", *PAIRS)),
        (signal.SIGTERM, ("bench", *PAIRS, "--batch-size", "1")),
        (signal.SIGHUP, ("bench", *PAIRS, "--batch-size", "1")),
        (signal.SIGTERM, ("prepare", *TRAINING)),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else value.name,
)
def test_signals_end_every_verb_cleanly(environment, tmp_path, number, verb):
    # Guards: a death in the middle: half a file, a temporary one, workers that go on alone.
    texts = (
        f"Train {number} for {number**2} leaves at {number % 24}.\n" for number in range(99_999)
    )
    (tmp_path / "in").write_text("".join(texts))
    process = subprocess.Popen(
        [sys.executable, "-m", "multistride", *verb],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=tmp_path,
        env=environment,
        start_new_session=True,
    )
    time.sleep(2)
    process.send_signal(number)
    # A signal that comes while modules are imported is heard behind them. The input stays open so
    # long: at its end the work would be complete, and nothing to stop.
    process.wait(timeout=60)
    _, errors = process.communicate()
    assert process.returncode == 130, errors.decode()
    assert errors.decode().splitlines()[-1].startswith("multistride: error: ")
    assert b"Traceback" not in errors
    left = {path.name for path in tmp_path.iterdir()} - {"in", "cache", "out.parts"}
    assert left == set()
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)  # nobody of its group is left


def test_a_signal_that_the_caller_ignores_stays_ignored(shell):
    # Guards: `nohup multistride ...` that ends with its terminal.
    done = shell(
        "trap '' HUP; (sleep 1.5; echo Go.) | $m translate & sleep 1; kill -HUP $!; wait $!"
    )
    assert done.returncode == 0, done.stderr.decode()
    assert done.stdout.strip()


def test_one_file_is_not_read_and_written_at_once(shell, tmp_path):
    # Guards: --trace naming the input, which emptied it before it was read.
    (tmp_path / "in").write_text("Go.\n")
    assert "is also read" in one_line(shell("$m translate --input in --trace in"), 2)
    assert "written twice" in one_line(shell("echo | $m translate --output o --trace ./o"), 2)
    os.link(tmp_path / "in", tmp_path / "alias")
    for line in ("$m translate --input in --trace alias", "$m translate --trace in < in"):
        assert "is also read" in one_line(shell(line), 2)
    assert "written twice" in one_line(shell("echo | $m translate --trace o > o"), 2)
    assert (tmp_path / "in").read_text() == "Go.\n"


def test_a_dash_is_a_standard_stream(shell, tmp_path):
    # Guards: a file called "-", where most programs read stdin and write stdout.
    plain = shell("echo Go. | $m translate").stdout
    assert shell("echo Go. | $m translate --input - --output -").stdout == plain
    assert not (tmp_path / "-").exists()


def test_compressed_output_is_what_its_name_says(shell, tmp_path):
    # Guards: plain text called .gz, which our own reader then calls corrupt.
    (tmp_path / "in").write_text("Go.\nI am older.\n")
    plain = shell("$m translate --input in").stdout
    for name in ("o.gz", "o.xz"):
        assert shell(f"$m translate --input in --output {name}").returncode == 0
        assert shell(f"$m translate --output again-{name} < in").returncode == 0
    unpacked = shell("gzip -dc o.gz; gzip -dc again-o.gz; xz -dc o.xz; xz -dc again-o.xz").stdout
    assert unpacked == plain * 4


def test_a_pipe_as_input_is_read_once(shell):
    # Guards: a pipe that is counted, hashed and then empty.
    done = shell("$m translate --input <(echo Go.) --output out; cat out")
    assert done.stdout.strip(), done.stderr.decode()


def test_json_on_stdout_is_the_only_thing_there(shell):
    done = shell("$m doctor --json")
    facts = json.loads(done.stdout)
    assert facts["engines"]["eager"] is None
    assert facts["int8_kernels"].startswith(("native", "ONNX Runtime: "))
    assert done.returncode == 0


def test_a_trace_does_not_go_where_the_translations_go(shell, tmp_path):
    # Guards: the lines of a file that is appended to, and translations under a trace.
    log = tmp_path / "log"
    log.write_text("kept\n")
    for engine in ("auto", "eager"):
        done = shell(
            f"echo Hello. | $m translate --engine {engine} --group-size 4 --trace /dev/stdout"
            " >> log"
        )
        assert done.returncode == 2
        assert diagnostics(done) == [
            "multistride: error: /dev/stdout is the file that results are written to: "
            "name another one"
        ]
        assert log.read_text() == "kept\n"
    done = shell("echo Hello. | $m translate --output out --trace /dev/stdout >> log")
    assert done.returncode == 0
    lines = log.read_text().splitlines()
    assert lines[0] == "kept"
    assert all(json.loads(line)["line"] == 1 for line in lines[1:])
    assert len(lines) > 1


def test_a_name_that_cannot_be_written_is_refused_before_the_work(shell, tmp_path):
    # Guards: an hour of translating for a name that was never possible.
    (tmp_path / "in").write_text("Hello.\n")
    for command in ("translate", "distill --model english-german --beam 1"):
        done = shell(
            f"$m {command} --threads 1 --source in --output out.zst".replace(
                "--source", "--input" if command == "translate" else "--source"
            )
        )
        assert done.returncode == 2
        assert b"uncompressed under the name" in done.stderr
    assert [path.name for path in tmp_path.iterdir() if "out" in path.name] == []


def test_ctrl_c_while_the_command_is_imported_is_one_line(tmp_path, environment):
    # Guards: a traceback in the first seconds on a slow machine.
    program = (
        "import sys, types, multistride.__main__ as entry\n"
        "class Stopped(types.ModuleType):\n"
        "    def __getattr__(self, name): raise KeyboardInterrupt\n"
        "sys.modules['multistride.cli'] = Stopped('multistride.cli')\n"
        "entry.main()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, check=False
    )
    assert done.returncode == 130
    assert done.stderr == b"multistride: error: interrupted\n"
