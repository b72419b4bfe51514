"""Training as its user runs it: killed, doubled, averaged, and with every technique switched on."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch
from safetensors.torch import load_file

from multistride.model.weights import load_model

pytestmark = pytest.mark.system

EVERYTHING = [
    "groups.sizes={1: 0.2, 2: 0.3, 4: 0.5}",
    "groups.curriculum=[{until: 0.3, sizes: {1: 1, 2: 1}}]",
    "groups.random_borders=0.2",
    "groups.partial_groups=0.2",
    "groups.lookahead=0.2",
    "groups.glancing=0.3",
    "groups.markov_rank=8",
    "training.word_dropout=0.1",
    "training.r_drop=0.5",
    "training.moving_average=0.9",
    "training.clip_value=0.5",
    "training.weight_decay=0.01",
    "training.schedule=wsd",
]


def options(run, *settings):
    pairs = [f"run={run}", *settings]
    return [part for setting in pairs for part in ("--set", setting)]


def history(run):
    entries = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [
        {key: value for key, value in entry.items() if key != "tokens_per_second"}
        for entry in entries
    ]


def test_killed_runs_come_out_the_same_bit_for_bit(work, multistride, tmp_path):
    # Guards: anything that training needs to go on and that no checkpoint holds: order, dropout,
    # layouts, averages.
    config, settings = (
        work / "many.yaml",
        [*EVERYTHING, "training.validate_every=10", "training.log_every=1"],
    )
    multistride("train", config, *options(tmp_path / "whole", *settings), check=0)
    chance = random.Random(5)
    command = [
        sys.executable,
        "-m",
        "multistride",
        "train",
        config,
        "--resume",
        *options(tmp_path / "run", *settings),
    ]
    for _ in range(2):
        process = subprocess.Popen(
            command, stderr=subprocess.DEVNULL, env={**os.environ, "OMP_NUM_THREADS": "1"}
        )
        while not (tmp_path / "run/last").exists() and process.poll() is None:
            time.sleep(0.01)
        time.sleep(chance.random())
        process.send_signal(signal.SIGKILL)
        process.wait()
    multistride(*command[3:], check=0)
    assert history(tmp_path / "run") == history(tmp_path / "whole")
    one, other = (load_file(tmp_path / run / "last/model.safetensors") for run in ("run", "whole"))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def in_two_processes(config, *arguments):
    """Train with two processes that talk over gloo."""
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nproc-per-node",
        "2",
        "--master-port",
        "0",
    ]
    command += [
        "--rdzv-backend",
        "c10d",
        "--rdzv-endpoint",
        "localhost:0",
        "-m",
        "multistride",
        "train",
        str(config),
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, *map(str, arguments)], capture_output=True, timeout=120, env=environment
    )
    assert done.returncode == 0, done.stderr.decode()
    assert done.stderr.count(b"best checkpoint") == 1  # one process speaks


@pytest.mark.parametrize("sharding", ["none", "full"])
def test_two_processes_are_one_with_twice_the_batches(work, multistride, tmp_path, sharding):
    # Guards: gradients averaged where they are summed, batches that both processes read, two
    # writers of one run.
    config, settings = (
        work / "autoregressive.yaml",
        ["training.updates=12", "training.log_every=1", "model.dropout=0.1"],
    )
    settings += [
        "groups.sizes={1: 0.5, 2: 0.5}",
        "training.validate_every=6",
        "training.validate_sentences=0",
    ]
    accumulated = options(tmp_path / "one", *settings, "training.accumulate=2")
    multistride("train", config, *accumulated, check=0)
    settings.append(f"training.sharding={sharding}")
    in_two_processes(config, *options(tmp_path / "two", *settings))
    one, two = history(tmp_path / "one"), history(tmp_path / "two")
    for alone, together in zip(one, two, strict=True):
        assert alone["kind"] == together["kind"]
        for key in alone.keys() & {
            "cross_entropy",
            "gradient_norm",
            "validation_loss_k1",
            "validation_loss_k2",
        }:
            assert alone[key] == pytest.approx(together[key], rel=1e-4), (key, alone["update"])
    weights = [load_file(tmp_path / run / "last/model.safetensors") for run in ("one", "two")]
    for name in weights[0]:
        if name.endswith(("attention.input.bias", "cross.key_value.bias")):
            continue  # it shifts all scores alike: its gradient is noise, which Adam scales up
        torch.testing.assert_close(weights[0][name], weights[1][name], atol=1e-4, rtol=1e-3)


def test_sharded_runs_go_on_where_they_stopped(work, tmp_path):
    # Guards: optimiser states that are put together or divided again in another order.
    settings = [
        "training.updates=12",
        "training.log_every=1",
        "training.validate_every=6",
        "training.sharding=full",
    ]
    arguments = options(tmp_path, *settings, "training.validate_sentences=8")
    in_two_processes(work / "many.yaml", *arguments)
    before, weights = history(tmp_path), load_file(tmp_path / "last/model.safetensors")
    shutil.rmtree(tmp_path / "checkpoints/step_12")
    for name in ("last", "best"):
        (tmp_path / name).unlink()
        (tmp_path / name).symlink_to("checkpoints/step_6")
    in_two_processes(work / "many.yaml", "--resume", *arguments)
    assert history(tmp_path) == before
    again = load_file(tmp_path / "last/model.safetensors")
    assert all(torch.equal(weights[name], again[name]) for name in weights)


def test_a_longer_run_is_the_one_that_was_long_from_the_beginning(work, multistride, tmp_path):
    # Guards: a run that ended and must be trained anew for a few more updates; one that is made
    # longer and is neither the short nor the long one.
    config = work / "many.yaml"

    def train(run, updates, *more, code=0, **changes):
        settings = {"schedule": "constant", "validate_every": 10, **changes, "updates": updates}
        named = [f"training.{name}={value}" for name, value in settings.items()]
        return multistride("train", config, *more, *options(tmp_path / run, *named), check=code)

    train("whole", 30)
    train("run", 20)
    train("run", 30, "--resume")
    whole, run = (
        load_file(tmp_path / name / "last/model.safetensors") for name in ("whole", "run")
    )
    assert all(torch.equal(whole[name], run[name]) for name in whole)
    assert history(tmp_path / "run") == history(tmp_path / "whole")
    for updates, changes in ((20, {}), (60, {"schedule": "cosine"})):
        done = train("run", updates, "--resume", code=2, **changes)
        assert b"training.updates was 30, is %d" % updates in done.stderr


def test_a_loss_that_is_no_number_stops_before_it_spoils_the_weights(work, multistride, tmp_path):
    # Guards: a run that goes on for hours with NaN, and a message that does not say where to look.
    config = work / "autoregressive.yaml"
    settings = ["training.learning_rate=1e30", "training.warmup_updates=0", "training.clip_norm=0"]
    done = multistride("train", config, *options(tmp_path / "run", *settings), check=1)
    assert b"lower training.learning_rate" in done.stderr
    found = json.loads((tmp_path / "run/not_finite.json").read_text())
    assert found["train_rows"]
    assert all(0 <= row < 200 for row in found["train_rows"])


def test_average(work, multistride, tmp_path):
    # Guards: a verb that writes something translate cannot load, or is silent about which it took.
    done = multistride(
        "average", work / "many", "--last", 2, "--output", tmp_path / "mean", check=0
    )
    newest = sorted(
        (path.name for path in (work / "many/checkpoints").glob("step_*")),
        key=lambda name: int(name.removeprefix("step_")),
    )[-2:]
    assert f"averaging {', '.join(newest)} of {work / 'many'}\n" in done.stderr.decode()
    assert load_model(tmp_path / "mean")[0].config.group_sizes == (1, 2)
    multistride("translate", "--model", tmp_path / "mean", text="a g m\n", check=0)
    done = multistride(
        "average", work / "many", work / "many", "--last", 2, "--output", tmp_path / "no", check=2
    )
    assert b"--last takes one run directory, 2 were given" in done.stderr


def test_data_without_validation_are_refused_before_the_first_update(work, multistride, tmp_path):
    # Guards: hundreds of updates that end at the first validation, before any checkpoint.
    sides = ("--train-source", work / "train.source", "--train-target", work / "train.target")
    data = tmp_path / "data"
    multistride("prepare", "--output", data, "--vocabulary-kind", "words", *sides, check=0)
    text = (work / "autoregressive.yaml").read_text()
    for old, new in ((work / "data", data), (work / "autoregressive", tmp_path / "run")):
        text = text.replace(str(old), str(new))
    (tmp_path / "run.yaml").write_text(text)
    for sentences in ("8", "0"):
        settings = ("--set", f"training.validate_sentences={sentences}")
        done = multistride("train", tmp_path / "run.yaml", *settings, check=4)
        assert b"has no validation split, it has train: prepare it again" in done.stderr
        assert not (tmp_path / "run").exists()
