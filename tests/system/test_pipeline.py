"""The main job, end to end, as its user runs it."""

import gzip
import json
import os
import signal
import subprocess
import sys
import time

import pytest

from multistride.decode.options import DecodeOptions
from multistride.evaluate.request import EvaluationRequest
from multistride.evaluate.run import evaluate
from multistride.report.reading import read_result
from multistride.translator import Translator

pytestmark = pytest.mark.system

CONTRACT = {
    "group_size",
    "mode",
    "beam",
    "engine",
    "bleu",
    "bleu_signature",
    "chrf",
    "steps_per_sentence",
    "tokens_per_step",
    "ms_per_sentence_p50",
    "ms_per_sentence_p95",
    "tokens_per_second",
    "repetition_rate",
    "length_ratio",
    "identical_to_k1",
}


def metrics(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_training_learns(work):
    # Guards: a loop that runs and teaches nothing.
    losses = [
        entry["cross_entropy"]
        for entry in metrics(work / "autoregressive")
        if entry["kind"] == "training"
    ]
    assert losses[-1] < 0.6 * losses[0]
    assert (work / "many/best/model.safetensors").is_file()
    assert (work / "many/last/training.pt").is_file()


def test_translate_keeps_lines_aligned(work, multistride):
    # Guards: one bad line that shifts all the lines after it.
    text = b"a g m\n\n\xff\xfe\nb h n\n" + b"a " * 50_000 + b"\nc i o"
    done = multistride(
        "translate", "--model", work / "many/best", "--group-size", 2, text=text, check=4
    )
    lines = done.stdout.decode().split("\n")
    assert len(lines) == 7
    assert [bool(line) for line in lines] == [True, False, False, True, False, True, False]
    alone = multistride(
        "translate", "--model", work / "many/best", "--group-size", 2, text="b h n\n", check=0
    )
    assert lines[3] == alone.stdout.decode().strip()
    errors = done.stderr.decode()
    assert "line 3: it is not valid UTF-8" in errors
    assert "line 5: it has 50,000 tokens, at most 31 are allowed" in errors


def test_translate_empty_input(work, multistride):
    # Guards: a crash, or an invented line, where there is nothing to do.
    assert multistride("translate", "--model", work / "many/best", check=0).stdout == b""
    assert (
        multistride("translate", "--model", work / "many/best", text="\n\n", check=0).stdout
        == b"\n\n"
    )


@pytest.mark.parametrize("packed", [False, True])
def test_an_empty_file_is_read_as_empty_stdin_is(work, tmp_path, multistride, packed):
    # Guards: exit code 4 for an empty file where empty stdin was fine; n lines in, n lines out.
    empty, output = tmp_path / ("none.gz" if packed else "none"), tmp_path / "output"
    empty.write_bytes(gzip.compress(b"") if packed else b"")
    model = ("--model", work / "many/best")
    for further in ((), ("--output", output), ("--stream",), ("--window", 2, "--output", output)):
        done = multistride("translate", *model, "--input", empty, *further, check=0)
        assert (done.stdout, output.exists()) == (b"", "--output" in further)
        assert f"{empty} is empty: nothing was written" in done.stderr.decode()
        if output.exists():
            assert output.read_bytes() == b""
            output.unlink()
    scored = multistride("score", *model, "--source", empty, "--target", empty, check=0)
    assert scored.stdout == b""
    lines = tmp_path / "lines"
    lines.write_text("a\n")
    refused = multistride("score", *model, "--source", empty, "--target", lines, check=4)
    assert "has 0 lines and" in refused.stderr.decode()


def test_trace_and_json_show_the_groups(work, multistride):
    # Guards: traces that do not add up to the output.
    trace = work / "trace.jsonl"
    done = multistride(
        *(
            "translate",
            "--model",
            work / "many/best",
            "--group-size",
            2,
            "--json",
            "--trace",
            trace,
        ),
        text="a g m\n",
        check=0,
    )
    answer = json.loads(done.stdout)
    steps = [json.loads(line) for line in trace.read_text().splitlines()]
    assert [step["pieces"] for step in steps] == answer["groups"]
    assert len(answer["scores"]) == sum(len(group) for group in answer["groups"])
    assert all(score <= 0 for score in answer["scores"])


def test_without_a_model_the_one_that_ships_translates(multistride, tmp_path):
    # Guards: a default that only works in the source tree's directory, groups that are not the
    # text.
    text = "Where is the station?\n\nI do not know.\n"
    plain = multistride(
        "translate", "--group-size", 2, text=text, cwd=tmp_path, check=0
    ).stdout.decode()
    shown = multistride(
        "translate", "--group-size", 2, "--show-groups", text=text, cwd=tmp_path, check=0
    )
    assert plain.count("\n") == shown.stdout.count(b"\n") == 3
    for line, groups in zip(plain.splitlines(), shown.stdout.decode().splitlines(), strict=True):
        joined = groups.removesuffix(" </s>").replace("‿", "").replace(" │", "")
        assert joined.replace(" ", "") == line.replace(" ", "")
    both = multistride("translate", "--show-groups", "--json", text=text)
    assert both.returncode == 2
    assert b"different formats" in both.stderr


def test_streaming_keeps_lines_and_says_which_failed(work, multistride, tmp_path):
    # Guards: a line without its end, a trace that is not JSON, a beam that streaming ignores.
    command = ("translate", "--model", work / "many/best", "--group-size", 2)
    text, trace = b"a g m\n\n\xff\nb h n\n", tmp_path / "trace.jsonl"
    done = multistride(*command, "--stream", "--trace", trace, text=text, check=4)
    assert done.stdout == multistride(*command, text=text, check=4).stdout
    assert b"line 3: it is not valid UTF-8" in done.stderr
    assert {json.loads(line)["line"] for line in trace.read_text().splitlines()} == {1, 4}
    assert b"beam 4" in multistride(*command, "--stream", "--beam", 4, check=2).stderr


def test_translate_and_evaluate_with_a_beam(work, multistride):
    # Guards: a beam that is taken and ignored, a row that does not say how it was decoded, a trace
    # of another output.
    model, trace = work / "many/best", work / "beam.jsonl"
    done = multistride(
        *(
            "translate",
            "--model",
            model,
            "--group-size",
            2,
            "--beam",
            3,
            "--json",
            "--trace",
            trace,
        ),
        text="a g m\nb h n\n",
        check=0,
    )
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    direct = Translator.load(model, "cpu").translate(["a g m", "b h n"], group_size=2, beam=3)
    assert [answer["tokens"] for answer in answers] == [list(each.tokens) for each in direct]
    steps = [json.loads(line)["pieces"] for line in trace.read_text().splitlines()]
    assert steps == [group for answer in answers for group in answer["groups"]]
    request = EvaluationRequest(
        source=work / "validation.source",
        reference=work / "validation.target",
        name="test",
        tokenize="none",
        latency_sentences=2,
    )
    translator = Translator.load(model, "cpu")
    ways = [DecodeOptions(group_size=size, beam=3) for size in (1, 2)]
    result = evaluate(request, ways, model, device="cpu")
    assert [row.beam for row in result.rows] == [3, 3]
    assert result.conditions["decoding"].startswith("beam search")
    sources = (work / "validation.source").read_text().splitlines()
    greedy, searched = translator.translate(sources), translator.translate(sources, beam=3)
    same = [one.tokens == other.tokens for one, other in zip(greedy, searched, strict=True)]
    assert result.rows[0].identical_to_k1 == sum(same) / len(same)


def test_evaluate_prints_the_contract(work, multistride):
    # Guards: a key that scripts rely on gone or renamed.
    done = multistride(
        *(
            "evaluate",
            "--model",
            work / "many/best",
            "--group-size",
            "1,2",
            "--json",
            "--latency-sentences",
            4,
        ),
        *("--source", work / "validation.source", "--reference", work / "validation.target"),
        *("--tokenize", "none", "--output", work / "result.json", "--kind", "phonemes"),
        check=0,
    )
    result = json.loads(done.stdout)
    assert [row["group_size"] for row in result["results"]] == [1, 2]
    assert all(row.keys() >= CONTRACT for row in result["results"])
    assert result["results"][0]["identical_to_k1"] == 1.0
    assert read_result(work / "result.json").rows[0].bleu == result["results"][0]["bleu"]
    page = work / "page.html"
    shown = multistride("report", work / "result.json", "--page", page, check=0)
    assert "K" in shown.stdout.decode()
    assert "<svg" in page.read_text()


def test_steps_are_the_tokens_over_k(work):
    # Guards: steps counted wrongly, which would make every speed-up a lie.
    request = EvaluationRequest(
        source=work / "validation.source",
        reference=work / "validation.target",
        name="test",
        tokenize="none",
        latency_sentences=2,
    )
    ways = [DecodeOptions(group_size=size) for size in (1, 2)]
    one, two = evaluate(request, ways, work / "many/best", device="cpu").rows
    translator = Translator.load(work / "many/best", "cpu")
    assert one.tokens_per_step == 1.0
    sources = (work / "validation.source").read_text().splitlines()
    for translation in translator.translate(sources, group_size=2):
        assert len(translation.trace) == -(-len(translation.scores) // 2)
    assert 1.3 < two.tokens_per_step <= 2.0


def test_inspect(work, multistride):
    # Guards: an inspection that disagrees with the model.
    facts = json.loads(multistride("inspect", work / "many/best", "--json", check=0).stdout)
    assert facts["group_sizes"] == [1, 2]
    assert facts["updates"] in (30, 60)


def test_sentences_of_a_line_are_translated_alone(multistride, tmp_path):
    lines = "The dog runs. A man sings.\n\nA man sings.\n"
    both, blank, man = (
        multistride("translate", "--sentences", "--group-size", 4, text=lines, check=0)
        .stdout.decode()
        .splitlines()
    )
    assert (blank, both.endswith(f" {man}")) == ("", True)
    (tmp_path / "source").write_text(lines)
    files = ("--input", tmp_path / "source", "--output", tmp_path / "output")
    multistride("translate", "--sentences", "--group-size", 4, *files, check=0)
    assert (tmp_path / "output").read_text().splitlines() == [both, blank, man]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--window", 2], "--sentences and --window were given: leave one of them out"),
        (["--json"], "--sentences writes plain lines: leave --show-groups, --stream, --json"),
        (["--stop", "."], "a stop text was given, which is for single sentences"),
        (["--ray"], "--sentences"),
    ],
)
def test_what_does_not_go_with_sentences_is_refused(multistride, options, said):
    done = multistride("translate", "--sentences", *options, text="A man sings.\n", check=2)
    assert said in done.stderr.decode()
    assert done.stdout == b""


def test_interrupt_and_resume_equal_an_uninterrupted_run(work, multistride, tmp_path):
    # Guards: work lost at Ctrl-C, and a resumed run that takes another path.
    config = work / "autoregressive.yaml"
    settings = [
        "--set",
        f"run={tmp_path / 'run'}",
        "--set",
        "training.updates=400",
        "--set",
        "training.schedule=constant",
    ]
    settings += ["--set", "training.validate_every=20000", "--set", "training.validate_sentences=0"]
    command = [sys.executable, "-m", "multistride", "train", config, *settings]
    process = subprocess.Popen(
        command, stderr=subprocess.PIPE, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    while not (tmp_path / "run/metrics.jsonl").exists():
        assert process.poll() is None, process.communicate()[1].decode()
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    errors = process.communicate(timeout=60)[1].decode()
    assert process.returncode == 130, errors
    assert "--resume" in errors
    assert "Traceback" not in errors
    assert len(metrics(tmp_path / "run")) < 40, "it was too fast to be interrupted"
    multistride("train", config, *settings, "--resume", check=0)
    settings[1] = f"run={tmp_path / 'whole'}"
    multistride("train", config, *settings, check=0)
    resumed, whole = metrics(tmp_path / "run"), metrics(tmp_path / "whole")
    assert len(resumed) == 41
    for entry in (*resumed, *whole):
        entry.pop("tokens_per_second", None)
    assert resumed == whole


def test_resume_refuses_another_configuration(work, multistride):
    # Guards: a run continued under settings it was not begun with, silently.
    done = multistride(
        "train", work / "many.yaml", "--resume", "--set", "training.learning_rate=0.5", check=2
    )
    assert b"training.learning_rate was 0.01, is 0.5" in done.stderr


def test_scores_are_those_of_the_translation(work, multistride, tmp_path):
    # Guards: a score of another line, and n lines in that are not n lines out.
    sources = (work / "validation.source").read_text().splitlines()[:6]
    (tmp_path / "source").write_text("".join(f"{line}\n" for line in sources))
    options = ["--model", work / "many/best", "--group-size", 2]
    translate = ("translate", *options, "--engine", "eager", "--json")
    done = multistride(*translate, text=(tmp_path / "source").read_text(), check=0)
    written = [json.loads(line) for line in done.stdout.splitlines()]
    (tmp_path / "target").write_text("".join(f"{each['text']}\n" for each in written))
    files = ["--source", tmp_path / "source", "--target", tmp_path / "target"]
    scored = multistride("score", *options, *files, "--json", check=0).stdout.splitlines()
    for one, other in zip(written, map(json.loads, scored), strict=True):
        assert one["ending"] == "end"
        assert other["scores"] == pytest.approx(one["scores"], abs=1e-3)
    plain = multistride("score", *options, *files, check=0).stdout.decode().splitlines()
    assert [int(line.split("\t")[1]) for line in plain] == [len(each["scores"]) for each in written]
    (tmp_path / "target").write_bytes(done.stdout)
    by_tokens = multistride("score", *options, *files, "--tokens", "--json", check=0).stdout
    for one, other in zip(written, map(json.loads, by_tokens.splitlines()), strict=True):
        assert other["scores"] == pytest.approx(one["scores"], abs=1e-3)
    cut = multistride(
        *translate, "--max-tokens", 3, text=(tmp_path / "source").read_text(), check=0
    )
    (tmp_path / "target").write_bytes(cut.stdout)
    by_tokens = multistride("score", *options, *files, "--tokens", "--json", check=0).stdout
    for one, other in zip(
        map(json.loads, cut.stdout.splitlines()),
        map(json.loads, by_tokens.splitlines()),
        strict=True,
    ):  # no EOS was written
        assert one["ending"] == "limit"
        assert other["scores"] == pytest.approx(one["scores"], abs=1e-3)
    broken = [b'{"tokens": [1000000]}', b"[]", b"a", *done.stdout.splitlines()[3:]]
    (tmp_path / "target").write_bytes(b"\n".join(broken) + b"\n")
    refused = multistride("score", *options, *files, "--tokens", check=4)
    assert refused.stderr.count(b"its target holds no tokens of this model") == 3
    (tmp_path / "target").write_text("a " * 100 + "\n" + "a\n" * 5)
    done = multistride("score", *options, *files, check=4)
    assert [bool(line) for line in done.stdout.decode().split("\n")] == [False, *[True] * 5, False]
    assert b"line 1: it is too long" in done.stderr


def test_sampling_by_the_command(work, multistride):
    # Guards: a seed that does not reach the sampler.
    options = ["translate", "--model", work / "many/best", "--temperature", 3.0, "--group-size", 2]
    outputs = [
        multistride(*options, "--seed", seed, text="a g m\n" * 2, check=0).stdout
        for seed in (1, 1, 2)
    ]
    assert outputs[0] == outputs[1] != outputs[2]
