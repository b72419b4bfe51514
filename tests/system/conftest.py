"""The command as its user has it: a process, its streams, its exit code."""

import os
import signal
from pathlib import Path

import pytest
from forks import Forks

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "default"}


@pytest.fixture(scope="session", autouse=True)
def signals_are_heard():
    """A command started in the background inherits that SIGINT is ignored, one under nohup SIGHUP;
    those started here must hear both."""
    before = {
        signal.SIGINT: signal.signal(signal.SIGINT, signal.default_int_handler),
        signal.SIGHUP: signal.signal(signal.SIGHUP, signal.SIG_DFL),
    }
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory):
    """What commands measure of this machine stays out of its user's cache."""
    ENVIRONMENT["XDG_CACHE_HOME"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def forks(own_cache):
    forks = Forks(ENVIRONMENT)
    yield forks
    forks.close()


@pytest.fixture(scope="session")
def multistride(forks):
    """Run the command; text in, a finished process out."""

    def run(*arguments, text="", cwd=None, check=None):
        data = text if isinstance(text, bytes) else text.encode()
        done = forks.run([*map(str, arguments)], data, cwd, ENVIRONMENT, timeout=120)
        if check is not None:
            assert done.returncode == check, done.stderr.decode()
        return done

    return run


@pytest.fixture(scope="session")
def work(tmp_path_factory, multistride):
    """A tiny task (reverse the letters), prepared and trained: an autoregressive model and a many-K
    one."""
    place = tmp_path_factory.mktemp("work")
    words = [a + b + c for a in "abcdef" for b in "ghijkl" for c in "mnopqr"]
    write_pairs(place, "train", words[:200])
    write_pairs(place, "validation", words[200:])
    multistride(
        *("prepare", "--output", place / "data", "--vocabulary-kind", "words"),
        *("--train-source", place / "train.source", "--train-target", place / "train.target"),
        *(
            "--validation-source",
            place / "validation.source",
            "--validation-target",
            place / "validation.target",
        ),
        check=0,
    )
    write_config(
        place / "autoregressive.yaml", place / "data", place / "autoregressive", "{1: 1.0}"
    )
    multistride("train", place / "autoregressive.yaml", check=0)
    write_config(
        place / "many.yaml",
        place / "data",
        place / "many",
        "{1: 0.3, 2: 0.7}",
        place / "autoregressive/best",
    )
    multistride("train", place / "many.yaml", check=0)
    return place


def write_pairs(place: Path, name: str, words: list[str]) -> None:
    (place / f"{name}.source").write_text("".join(" ".join(word) + "\n" for word in words))
    (place / f"{name}.target").write_text(
        "".join(" ".join(reversed(word)) + "\n" for word in words)
    )


def write_config(path: Path, data: Path, run: Path, sizes: str, start: Path | None = None) -> None:
    shape = (
        "{hidden_size: 32, feedforward_size: 64, heads: 2, encoder_layers: 1, decoder_layers: 1,"
        " max_positions: 32}"
    )
    model = f"start_from: {start}" if start else f"model: {shape}"
    path.write_text(
        f"data: {data}\nrun: {run}\n{model}\ngroups: {{sizes: {sizes}}}\n"
        "training: {updates: 60, tokens_per_batch: 400, learning_rate: 0.01, warmup_updates: 10, "
        "schedule: linear,"
        " validate_every: 30, validate_sentences: 8, log_every: 10, precision: float32, device: "
        "cpu}\n"
    )
