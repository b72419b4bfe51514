"""`multistride serve` as an operator has it: start, signals, faults in one line."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from multistride import cli
from multistride.cli import app
from multistride.cli.serving import _named
from multistride.shipped import DEFAULT

pytestmark = pytest.mark.system
COMMAND = [sys.executable, "-m", "multistride", "serve"]
TEXTS = ["I have never seen such a beautiful garden."] * 256
"""As many as a request may hold, so that it is seen while it runs."""


@contextmanager
def started(*options, **more):
    """Start a server. It is killed at the end, so that a test that fails ends."""
    command = [*COMMAND, "--port", "0", "--group-size", "1", "--threads", "1", *options]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, **more) as server:
        try:
            yield server, next(line for line in server.stderr if "serving" in line).split()[-1]
        finally:
            server.kill()


def test_sigterm_finishes_what_runs_and_exits_with_0():
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    with started(env=environment) as (server, url):
        answers, asking = asked(url, {"text": TEXTS, "mode": "exact"})
        until_it_runs(url, asking)
        server.send_signal(signal.SIGTERM)
        asking.join()
        assert server.wait(timeout=60) == 0
        assert len(answers[0].json()["translations"]) == len(TEXTS)
        said = server.stderr.read().splitlines()
        assert "shutting down" in said[0]
        assert json.loads(said[1])["path"] == "/v1/translate"
        assert not [line for line in said if "Traceback" in line]


@pytest.mark.skipif(sys.platform != "linux", reason="models have processes of their own on Linux")
def test_a_killed_engine_is_said_and_a_killed_server_leaves_no_engine():
    """Requests that wait for ever for a process that is gone, and a process that nobody ends."""
    with started() as (server, url):
        answers, asking = asked(url, {"text": TEXTS})
        until_it_runs(url, asking)
        os.kill(engine_of(server.pid), signal.SIGKILL)
        asking.join()
        assert answers[0].status_code == 500
        assert "was killed (signal 9)" in next(line for line in server.stderr if "over" in line)
        refused = httpx.post(url + "/v1/translate", json={"text": "Hello."})
        assert refused.status_code == 503
        assert "restart the server" in refused.text
        assert "restart the server" in httpx.get(url + "/ready").text
        server.send_signal(signal.SIGTERM)
        assert server.wait(timeout=20) == 0
    with started() as (server, _):
        engine = engine_of(server.pid)
        os.kill(engine, signal.SIGTERM)  # as a service manager sends it to the whole group
        server.kill()
        server.stderr.read()  # which both hold open
        assert not Path(f"/proc/{engine}/cmdline").exists() or not command_of(engine)


def asked(url, body):
    """Ask in a thread; return where its answer will be, and the thread."""
    answers = []

    def ask():
        answers.append(httpx.post(url + "/v1/translate", json=body, timeout=60))

    asking = threading.Thread(target=ask)
    asking.start()
    return answers, asking


def until_it_runs(url, asking):
    """Wait until the server decodes for the thread that asks."""
    idle = 'multistride_num_requests_running{model="english-german"} 0.0'
    with httpx.Client(base_url=url) as client:
        while idle in client.get("/metrics").text:
            assert asking.is_alive(), "it was answered before it was seen"


def engine_of(pid):
    """Return the process that decodes for a server."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return next(int(child) for child in children if b"serve" in command_of(child))


def command_of(pid):
    return Path(f"/proc/{pid}/cmdline").read_bytes()


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (["--model", "nowhere"], 4, "nowhere"),
        (["--model", "english-german", "--model", "english-german"], 2, "is empty or taken"),
        (["--group-size", "many"], 2, "--group-size takes a whole number"),
        (["--group-size", "99"], 2, "group size 99"),
        (["--port", "70000"], 2, "--port"),
        (["--host", "256.1.1.1"], 1, "cannot listen on 256.1.1.1"),
    ],
)
def test_faults_are_one_line(options, code, said, monkeypatch, capsys):
    check(["--port", "0", *options], code, said, monkeypatch, capsys)


def test_models_are_named_by_their_runs(tmp_path, monkeypatch):
    """`best` is a link to a checkpoint, and directories may have "=" in their names."""
    monkeypatch.chdir(tmp_path)
    for run in ("lr=0.1", "other"):
        Path(run, "checkpoints").mkdir(parents=True)
        shutil.copytree(DEFAULT, Path(run, "checkpoints", "step_5"))
        Path(run, "best").symlink_to("checkpoints/step_5")
    named = _named(["lr=0.1/best", "other/best", "own=other/best"])
    assert list(named) == ["lr=0.1", "other", "own"]


@pytest.mark.parametrize(("key", "said"), [("", "is empty"), (" ab ", "begins or ends with a")])
def test_a_key_that_no_client_can_send_is_refused(key, said, monkeypatch, capsys):
    # Guards: a server that is open because a variable is not set; one that nobody can use.
    check(["--api-key", key], 2, f"--api-key {said}", monkeypatch, capsys)
    monkeypatch.setenv("MULTISTRIDE_API_KEY", key)
    check([], 2, f"MULTISTRIDE_API_KEY {said}", monkeypatch, capsys)


def test_a_port_in_use_is_one_line(monkeypatch, capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        said = f"port {port} is in use: give another --port"
        check(["--port", str(port)], 1, said, monkeypatch, capsys)


def check(options, code, said, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["multistride", "serve", *options])
    with pytest.raises(SystemExit) as ended:
        cli.run(app)
    error = capsys.readouterr().err
    assert ended.value.code == code
    assert said in error
    assert len(error.splitlines()) == 1
