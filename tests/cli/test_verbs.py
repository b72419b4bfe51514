"""All verbs: their help, their shape, and what they need to be imported."""

import ast
import inspect
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from multistride import cli
from multistride.cli import VERBS, app, installation
from multistride.engines.int8 import support

RESULTS = Path(__file__).parents[2] / "results"

NAMES = [verb.__name__ for verbs in VERBS.values() for verb in verbs]
COMMANDS = typer.main.get_command(app).commands


def page(*arguments):
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert result.exit_code == 0
    return result.output


@pytest.mark.parametrize("name", NAMES)
def test_help_has_panels_and_an_example(name):
    # Guards: a list of options that nobody can read, or help that never shows the verb at work.
    text = page(name, "--help")
    assert "\nExample" in text
    example = text[text.index("\nExample") :]
    assert f"multistride {name}" in example
    for parameter in COMMANDS[name].params:
        if parameter.param_type_name == "option" and parameter.name != "help":
            assert parameter.rich_help_panel or parameter.hidden, f"{parameter.name} has no panel"
            assert parameter.help or parameter.hidden, f"{parameter.name} has no help"


@pytest.mark.parametrize("name", NAMES)
def test_verbs_are_short(name):
    # Guards: work that is done in the command line, where no other program can use it.
    source = inspect.getsource(inspect.unwrap(COMMANDS[name].callback))
    [function] = ast.parse(source).body
    lines = function.end_lineno - function.body[1].lineno + 1
    assert lines <= 20, f"{name} has {lines} lines"


def test_root_help_lists_every_verb():
    text = page()
    assert all(f"\n  {name} " in text for name in NAMES)
    assert text == page("--help")


def test_help_of_every_verb_is_quick_and_does_not_import_torch():
    # Guards: a slow command line; the promise is half a second, and on a slow machine five times
    # what the two libraries of every command line take there.
    probe = (
        "import sys; from typer.testing import CliRunner; from multistride.cli import app\n"
        f"for name in {NAMES!r}: CliRunner().invoke(app, [name, '--help'])\n"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", probe], check=False).returncode == 0
    for arguments in (["--help"], ["--version"], *([name, "--help"] for name in NAMES)):
        assert any(is_quick(arguments) for _ in range(3))


def is_quick(arguments):
    libraries = processor_seconds(["-c", "import pydantic, typer"])
    return processor_seconds(["-m", "multistride", *arguments]) < max(0.5, 5 * libraries)


def processor_seconds(arguments):
    """Seconds of a processor that Python takes; the clock of a busy machine says nothing."""
    before = os.times()
    subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
    after = os.times()
    return sum(after[2:4]) - sum(before[2:4])


def test_modules_that_only_some_systems_have_are_not_needed():
    # Guards: a package that Windows cannot import (no fcntl, no resource, no termios).
    hidden = ("fcntl", "resource", "termios", "pty", "tty", "pwd", "grp")
    probe = (
        "import builtins, importlib, pkgutil, signal, sys, multistride\n"
        "path, real = multistride.__path__, builtins.__import__\n"
        "def everything():\n"
        "    for module in pkgutil.walk_packages(path, 'multistride.'):\n"
        "        if not module.name.endswith(('__main__', '.workers.own', '.workers.loop')):\n"
        "            importlib.import_module(module.name)\n"
        "everything()  # and with it all libraries, which find out about the system themselves\n"
        "for name in [name for name in sys.modules if name.startswith('multistride')]:\n"
        "    del sys.modules[name]\n"
        "def fake(name, globals=None, *rest, **more):\n"
        "    inside = str((globals or {}).get('__name__')).startswith('multistride')\n"
        f"    if inside and name in {hidden!r}: raise ImportError(name)\n"
        "    return real(name, globals, *rest, **more)\n"
        "builtins.__import__, sys.platform = fake, 'win32'\n"
        "for name in ('SIGHUP', 'SIGSTOP', 'SIGCONT', 'SIGALRM', 'setitimer'):\n"
        "    delattr(signal, name)\n"
        "everything()\n"
        "import multistride.cli.console as console; console.hear_signals()\n"
    )
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()


_PAIRS = ("--train-source", __file__, "--train-target", __file__)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (["translate", "--grup-size", "4"], "--group-size"),
        (["translate", "--chat"], "--chat in translate; it is an option of generate"),
        (["generate", "--model", "english-german", "--prefix", "x"], "an option of translate"),
        (["translate", "--quiet"], "it stands before the verb: multistride --quiet translate"),
        (["translate", "text.en"], "translate reads stdin, or a file: --input FILE"),
        (["translat"], "Did you mean 'translate'"),
        (["translate", "--seed", "0"], "seed 0 was given, and at temperature 0 nothing is drawn"),
        (["translate", "--length-penalty", "1"], "length_penalty 1.0 was given, and beam 1"),
        (["translate", "--threshold", "0.5"], "threshold 0.5 was given, and mode fast has none"),
        (["translate", "--window", "2", "--max-tokens", "9"], "a maximum length was given"),
        (["prepare", "--output", "x", "--train-text", "a", "--columns", "0,1"], "--columns was"),
        (["translate", "--model", "nowhere"], "no model of that name ships (there is "),
        (["phrases", "--model", "english-german", "--data", "x"], "and this would change it: copy"),
        (["calibrate", "--model", "english-german", "--source", __file__], "and this would change"),
        (["serve", "--model", "a=nowhere"], "no model of that name ships (there is "),
        (
            ["course", "build", "--profile", "huge"],
            "'huge' is not one of 'tiny', 'quick', 'full' (see multistride course build --help)",
        ),
        (["translate", "--threads", "1", "--threads", "2"], "--threads was given 2 times"),
        (["translate", "--output", ""], "--output is empty, and takes a path"),
        (["translate", "--output", "new/"], "--output is new/, a directory, and a file is written"),
        (["evaluate", "--source", __file__, "--output", "new/"], "--output is new/, a directory"),
        (["train", ""], "config is empty, and takes a path"),
        (["translate", "--buffer", "9" * 30], "and takes numbers below 2^63"),
        (["translate", "--window", "9" * 30], "and takes numbers below 2^63"),
        (["prepare", "--output", "x", "--max-length-ratio", "inf"], "takes finite numbers"),
        (["translate", "--ban", "a\udcffb"], r"--ban has bytes that are no UTF-8: 'a\udcffb'"),
        (["inspect", "--sentence", "a", "--group-size", "0"], "group size 0 was asked for"),
        (["inspect", "--sentence", "\udcff"], "--sentence has bytes that are no UTF-8"),
        (["prepare", "--output", "-", *_PAIRS], "- is no name of a file"),
        (["prepare", "--output", "x", *_PAIRS, "--columns", "0,1"], "--columns was given"),
        (["prepare", "--output", "x", *_PAIRS, "--fields", "a,b"], "--fields was given"),
        (
            ["prepare", "--output", "x", *_PAIRS, "--train-source", __file__],
            "--train-source was given 2 times and --train-target 1 times: give the target",
        ),
        (
            ["prepare", "--output", "x", *_PAIRS, "--validation-target", __file__],
            "--validation-source was given 0 times and --validation-target 1 times",
        ),
        (
            ["prepare", "--output", "x", *_PAIRS, "--vocabulary", "v", "--vocabulary-size", "9"],
            "--vocabulary-size was given, and the vocabulary is that of v: leave one of them out",
        ),
        (
            ["prepare", "--output", "x", "--train-pairs", "a.tsv", "--columns", "1,1"],
            "--columns names column 1 twice",
        ),
        (
            ["prepare", "--output", "x", "--train-text", "a.txt", "--field", "text"],
            "--field was given",
        ),
    ],
)
def test_what_has_no_meaning_is_refused_in_one_line(line, said, monkeypatch, capsys):
    # Guards: options that are silently ignored, whatever their value.
    monkeypatch.setattr("sys.argv", ["multistride", *line])
    with pytest.raises(SystemExit) as ended:
        cli.run(app)
    error = capsys.readouterr().err
    assert ended.value.code in (2, 4)
    assert said in error
    assert len(error.splitlines()) == 1


def test_old_spellings_still_work(monkeypatch, capsys, tmp_path):
    # Guards: scripts that wrote --max-length.
    (tmp_path / "in").write_text("Go.\n")
    line = ["translate", "--max-length", "2", "--input", str(tmp_path / "in")]
    monkeypatch.setattr("sys.argv", ["multistride", *line])
    with pytest.raises(SystemExit) as ended:
        cli.run(app)
    assert ended.value.code == 0
    said = capsys.readouterr()
    assert "--max-length is now --max-tokens" in said.err
    assert said.out.count("\n") == 1


def test_models_that_ship_are_listed_and_can_be_named():
    # Guards: a model without a card that says what it is.
    facts = json.loads(page("models", "--json"))
    assert [fact["name"] for fact in facts if fact["quality"] and fact["licence"]]
    for fact in facts:
        assert fact["name"] in page("models")
        assert fact["group_sizes"][0] == 1
        assert fact["bytes"] > 1_000_000
    [german] = [fact for fact in facts if fact["name"] == "english-german"]
    recorded = json.loads((RESULTS / "tatoeba-english-german.json").read_text())["results"]
    first = {str(row["group_size"]): round(row["bleu"], 1) for row in recorded}
    assert german["test_set"] == "Tatoeba", "guards: figures of the last table of the card"
    assert german["quality"] == {k: first[k] for k in ("1", "4")}
    assert "ms a sentence" in page("models")


def test_doctor_says_why_an_engine_does_not_run_here(monkeypatch):
    # Guards: a doctor that fails where something is missing, which is when it is called.
    monkeypatch.setattr(support, "installed", lambda: False)
    monkeypatch.setattr(installation, "_version", lambda package, least: None)
    shown = page("doctor")
    assert "ONNX Runtime is not installed: pip install 'multistride[int8]'" in shown
    assert "missing ctranslate2, transformers: pip install 'multistride[bench]'" in shown


def test_completion_can_be_installed_and_completes(tmp_path):
    # Guards: the promise of --install-completion.
    environment = {
        **os.environ,
        "HOME": str(tmp_path),
        "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1",  # the shell is named below
        "_MULTISTRIDE_COMPLETE": "complete_bash",
        "COMP_WORDS": "multistride translate --mode ",
        "COMP_CWORD": "3",
    }
    command = [sys.executable, "-m", "multistride"]
    done = subprocess.run(command, env=environment, capture_output=True, check=False)
    assert done.stdout.decode().split() == ["fast", "adaptive", "exact"]
    began = time.monotonic()
    del environment["_MULTISTRIDE_COMPLETE"]
    done = subprocess.run(
        [*command, "--install-completion", "bash"],
        env=environment,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    assert any("multistride" in path.name for path in tmp_path.rglob("*")), "nothing was installed"
    assert time.monotonic() - began < 30
