"""Policies, calibration and pictures by the command."""

import json
import shutil

import pytest

pytestmark = pytest.mark.system


@pytest.fixture(scope="module")
def calibrated(work, multistride, tmp_path_factory):
    """A copy of the model with its calibration, and what the command printed."""
    model = tmp_path_factory.mktemp("calibrated") / "model"
    shutil.copytree(work / "many/best", model)
    done = multistride(
        "calibrate", "--model", model, "--source", work / "validation.source", "--json", check=0
    )
    return model, json.loads(done.stdout)


def test_calibrate_writes_what_it_prints(work, multistride, calibrated, tmp_path):
    # Guards: a calibration that is shown and not stored, places left out, too few sentences taken
    # for enough.
    model, printed = calibrated
    assert json.loads((model / "calibration.json").read_text()) == printed
    assert [(row["group_size"], row["place"]) for row in printed["places"]] == [(2, 1), (2, 2)]
    (tmp_path / "short").write_text("a g m\n" * 3)
    done = multistride("calibrate", "--model", model, "--source", tmp_path / "short", check=4)
    assert b"holds 3 sentences that fit the model, at least 10 are needed" in done.stderr
    files = ("--source", work / "validation.source", "--reference", work / "validation.target")
    judged = multistride("calibrate", "--model", model, *files, check=0).stdout.decode()
    assert "Confidence, judged by the reference" in judged


def test_a_model_that_ships_keeps_its_calibration(work, multistride):
    # Guards: a few lines of a user's in the place of what the package measured, for all its users.
    files = ("--source", work / "validation.source")
    done = multistride("calibrate", "--model", "english-german", *files, check=2)
    assert b"english-german ships with the package" in done.stderr


def test_auto_says_what_it_picked_and_why(work, multistride, calibrated):
    # Guards: a choice that is made silently, or one without measurements.
    command = ("translate", "--group-size", "auto", "--batch-size", 1)
    done = multistride(*command, "--model", calibrated[0], text="a g m\n", check=0)
    [said] = [
        line for line in done.stderr.decode().splitlines() if line.startswith("group size auto")
    ]
    size = said.partition("K=")[2][0]
    fixed = multistride(
        *command[:1], "--model", calibrated[0], "--group-size", size, text="a g m\n", check=0
    )
    assert done.stdout == fixed.stdout
    again = multistride(
        *command, "--model", calibrated[0], "--mode", "exact", text="a g m\n", check=0
    )
    assert b"group size auto" in again.stderr
    refused = multistride(*command, "--model", work / "many/best", text="a g m\n", check=2)
    assert b"run `multistride calibrate` on it" in refused.stderr


def test_a_calibration_of_other_weights_is_refused(work, multistride, calibrated, tmp_path):
    # Guards: confidence corrected by what was measured on another model; half a file taken for a
    # whole one.
    other = tmp_path / "other"
    shutil.copytree(work / "autoregressive/best", other)
    shutil.copy(calibrated[0] / "calibration.json", other)
    done = multistride("translate", "--model", other, "--mode", "adaptive", text="a g m\n", check=4)
    assert b"was measured on other weights" in done.stderr
    (other / "calibration.json").write_text("{")
    done = multistride("translate", "--model", other, "--mode", "adaptive", text="a g m\n", check=4)
    assert b"is damaged" in done.stderr
    multistride("translate", "--model", other, text="a g m\n", check=0)


@pytest.mark.parametrize("policy", ["phase", "cost-model", "confidence"])
def test_a_trace_says_which_policy_and_why(work, multistride, calibrated, tmp_path, policy):
    # Guards: a policy that is taken and not used, a trace without reasons, a picture of another
    # line.
    trace, picture = tmp_path / "trace.jsonl", tmp_path / "why.svg"
    options = (
        "--model",
        calibrated[0],
        "--group-size",
        2,
        "--mode",
        "adaptive",
        "--policy",
        policy,
    )
    multistride("translate", *options, "--trace", trace, text="a g m\nb h n\n", check=0)
    steps = [json.loads(line) for line in trace.read_text().splitlines()]
    assert {step["policy"] for step in steps} == {policy}
    assert all(
        1 <= step["accepted"] <= step["group_size"] <= 2 and step["why_group_size"]
        for step in steps
    )
    done = multistride("report", "--trace", trace, "--line", 2, "--figure", picture, check=0)
    assert "why so many" in " ".join(done.stdout.decode().split())
    assert picture.read_text().startswith("<svg")


def test_look_into_one_sentence(work, multistride, tmp_path):
    # Guards: an inspection of another translation than the command writes.
    model, picture = work / "many/best", tmp_path / "look.png"
    command = ("inspect", model, "--sentence", "a g m", "--group-size", 2)
    facts = json.loads(multistride(*command, "--json", "--picture", picture, check=0).stdout)
    translated = multistride(
        "translate", "--model", model, "--group-size", 2, "--json", text="a g m\n", check=0
    )
    assert facts["groups"] == json.loads(translated.stdout)["groups"]
    written = sum(len(group) for group in facts["groups"])
    assert [len(row) for row in facts["attention"]] == [4] * written
    assert all(abs(sum(row) - 1) < 0.01 for row in facts["attention"])
    assert picture.read_bytes().startswith(b"\x89PNG")
    shown = multistride(*command, check=0).stdout.decode()
    assert "looked" in shown
    assert "most" in shown


def test_evaluate_with_a_policy(work, multistride):
    # Guards: a policy that evaluate leaves out, repetition counted without its borders.
    files = ("--source", work / "validation.source", "--reference", work / "validation.target")
    options = (
        "--group-size",
        "1,2",
        "--mode",
        "adaptive",
        "--policy",
        "phase",
        "--latency-sentences",
        1,
    )
    done = multistride(
        "evaluate", "--model", work / "many/best", *files, *options, "--json", check=0
    )
    result = json.loads(done.stdout)
    assert result["settings"]["decoding"].endswith("policy phase")
    one, two = result["results"]
    assert one["repetition_inside"] is None
    assert 0 <= two["repetition_at_borders"] <= 1
    assert all(0 <= place["calibration_error"] <= 1 for place in result["places"])


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (["translate", "--policy", "sideways"], "'autoregressive' (given: 'sideways')"),
        (["translate", "--policy", "phase", "--mode", "exact"], "goes with mode fast or adaptive"),
        (["translate", "--layout", "sat", "--beam", "2"], "beam 2 has its own"),
        (
            ["translate", "--group-size", "auto", "--beam", "2"],
            "beam 2 was asked for: give a number",
        ),
        (["report"], "either a result file"),
        (["report", "a.json", "--trace", "b.jsonl"], "either a result file"),
        (["report", "a.json", "--line", "2"], "either a result file"),
        (["report", "--trace", "nowhere.jsonl"], "nowhere.jsonl cannot be read"),
        (["inspect", "--picture", "a.svg"], "give --sentence"),
        (["inspect", "--sentence", " "], "has no translation"),
    ],
)
def test_what_cannot_be_asked(multistride, command, said):
    # Guards: an option that is silently ignored, a traceback.
    done = multistride(*command, text="a\n")
    errors = done.stderr.decode()
    assert done.returncode in (2, 4)
    assert said in errors, errors
    assert "Traceback" not in errors
