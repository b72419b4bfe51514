"""Several servers behind one port: one that dies is replaced, all finish what they have."""

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import httpx
import pytest

from multistride.errors import UserError
from multistride.serve import replicas
from multistride.serve.replicas import supervise


class Fake:
    """A replica that can die."""

    def __init__(self, reason=None):
        self.reason, self.drained, self.killed = reason, False, False

    def ready(self, seconds):
        return True

    def ended(self):
        return "drained" if self.drained else self.reason

    def drain(self):
        self.drained = True

    def kill(self):
        self.killed = True


@pytest.fixture(autouse=True)
def at_once(monkeypatch):
    monkeypatch.setattr(replicas, "LOOK_EVERY", 0.001)


def test_a_dead_replica_is_replaced_and_a_signal_drains_all():
    hired = []

    def hire():
        hired.append(Fake("killed" if not hired else None))
        if len(hired) == 3:  # the replacement is there
            os.kill(os.getpid(), signal.SIGTERM)
        return hired[-1]

    handler = signal.getsignal(signal.SIGTERM)
    supervise(hire, 2, lambda: "serving")
    assert [fake.drained for fake in hired] == [False, True, True]
    assert hired[0].killed
    assert signal.getsignal(signal.SIGTERM) is handler


def test_replicas_that_die_again_and_again_end_the_server():
    with pytest.raises(UserError, match="5 replicas ended within 60 s"):
        supervise(lambda: Fake("exit code 1"), 1, lambda: "serving")


def test_one_that_dies_again_and_again_does_not_end_the_others(monkeypatch, caplog):
    """A model directory that was moved: every replacement fails, and says why."""
    monkeypatch.setattr(replicas, "WITHIN", 0.2)
    hired = []

    def hire():
        hired.append(Fake("no model there" if hired else None))
        if len(hired) == 8:
            os.kill(os.getpid(), signal.SIGTERM)
        return hired[-1]

    supervise(hire, 2, lambda: "serving")
    assert hired[0].drained
    assert "a replica ended (no model there): starting another" in caplog.text
    assert "starting another in 0.2 s, as 5 ended lately" in caplog.text


@pytest.mark.system
def test_a_killed_process_is_replaced_and_metrics_are_sums():
    command = [sys.executable, "-m", "multistride", "serve", "--port", "0", "--replicas", "2"]
    command += ["--group-size", "1", "--threads", "1"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
        url = next(line for line in server.stderr if line.startswith("serving")).split()[-1]
        ask = {"text": "Good morning.", "max_tokens": 2}
        answers = [httpx.post(url + "/v1/translate", json=ask).json() for _ in range(8)]
        assert len({json.dumps(answer["translations"][0]["tokens"]) for answer in answers}) == 1
        total = 'generation_tokens_total{model="english-german"} 16.0'
        assert total in httpx.get(url + "/metrics").text
        servers = _children(server.pid)
        assert len(servers) == 2
        os.kill(servers[0], signal.SIGKILL)
        line = next(line for line in server.stderr if "starting another" in line)
        assert "exit code -9" in line
        assert httpx.get(url + "/health").status_code == 200  # by the other one
        os.kill(_children(servers[1])[0], signal.SIGKILL)  # its model, which nothing else restarts
        line = next(line for line in server.stderr if "starting another" in line)
        assert "model english-german failed" in line
        server.send_signal(signal.SIGTERM)
        server.stderr.read()
        assert server.wait(timeout=60) == 0


def _children(pid):
    """Return the replicas of a server, or the models of a replica."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    commands = {int(child): Path(f"/proc/{child}/cmdline").read_bytes() for child in children}
    return [child for child, command in commands.items() if b"spawn_main" in command]


def test_a_replica_that_is_stopped_before_its_models_are_open_does_not_serve(monkeypatch, tmp_path):
    # Guards: requests that it takes after the signal, and that are cut off with it.
    on_ray = pytest.importorskip("multistride.serve.on_ray", reason="the extra [ray] is missing")
    told, opening, opened = [], threading.Event(), threading.Event()

    class Server:
        def handle_exit(self, number, frame):
            told.append(number)

    def run(site, started, made):
        opening.set()
        opened.wait(5)
        made(Server())

    monkeypatch.setattr(on_ray, "run", run)
    monkeypatch.setenv(on_ray.DIRECTORY, str(tmp_path / "new" / "metrics"))
    actor = on_ray._Actor(None)
    thread = threading.Thread(target=actor.run)
    thread.start()
    assert opening.wait(5)
    actor.drain()
    opened.set()
    thread.join()
    assert told == [0]
