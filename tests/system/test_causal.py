"""Causal models as their user has them: prepare, train, go on, generate, evaluate, distil,
draft."""

import json
import shlex
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from multistride.generator import Generator
from multistride.model.weights import load_model
from multistride.report.reading import read_result

pytestmark = pytest.mark.system

SHAPE = (
    "{hidden_size: 32, feedforward_size: 64, heads: 2, encoder_layers: 0, decoder_layers: 2, "
    "max_positions: 32, "
    "positions: rotary, norm_kind: rms, activation: silu, gated_feedforward: true}"
)
TRAINING = (
    "{updates: 40, tokens_per_batch: 300, learning_rate: 0.01, warmup_updates: 10, schedule: "
    "linear, "
    "validate_every: 20, log_every: 5, precision: float32, device: cpu, label_smoothing: 0.0}"
)


def config(place, name, groups, extra=f"model: {SHAPE}"):
    path = place / f"{name}.yaml"
    path.write_text(
        f"data: {place / 'data'}\nrun: {place / name}\n{extra}\ngroups: {groups}\ntraining: "
        f"{TRAINING}\n"
    )
    return path


@pytest.fixture(scope="module")
def causal(tmp_path_factory, multistride):
    """A tiny causal model for K=1 and 2 with everything switched on, and the data it was trained
    on."""
    place = tmp_path_factory.mktemp("causal")
    animals, places = ("cat", "dog", "fox", "owl", "hen"), ("house", "wood", "field", "yard")
    texts = [
        f"The {a} sees the {b} near the {c}. The {b} runs."
        for a in animals
        for b in animals
        for c in places
    ]
    (place / "train.txt").write_text("\n\n".join(texts[:90]))
    (place / "validation.txt").write_text("\n\n".join(texts[90:]))
    multistride(
        *(
            "prepare",
            "--output",
            place / "data",
            "--vocabulary-size",
            320,
            "--window",
            24,
            "--carry",
            4,
        ),
        *("--train-text", place / "train.txt", "--validation-text", place / "validation.txt"),
        *("--documents", "paragraph"),
        check=0,
    )
    groups = (
        "{sizes: {1: 0.4, 2: 0.6}, lookahead: 0.4, anchors: 4, partial_groups: 0.2, "
        "random_borders: 0.2,"
    )
    multistride(
        "train", config(place, "many", f"{groups} glancing: 0.2, markov_rank: 8}}"), check=0
    )
    return place


def history(run):
    entries = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [
        {key: value for key, value in entry.items() if key != "tokens_per_second"}
        for entry in entries
    ]


def test_training_learns_and_goes_on_bit_for_bit(causal, multistride, tmp_path):
    # Guards: a causal batch that the loop cannot continue exactly: anchors, prompts, layouts drawn
    # anew.
    losses = [
        entry["cross_entropy"] for entry in history(causal / "many") if entry["kind"] == "training"
    ]
    assert losses[-1] < 0.7 * losses[0]
    shutil.copytree(causal / "many", tmp_path / "run", symlinks=True)
    shutil.rmtree(tmp_path / "run/checkpoints/step_40")
    for name in ("last", "best"):
        (tmp_path / "run" / name).unlink()
        (tmp_path / "run" / name).symlink_to("checkpoints/step_20")
    text = (
        (tmp_path / "run/run.yaml").read_text().replace(str(causal / "many"), str(tmp_path / "run"))
    )
    (tmp_path / "run/run.yaml").write_text(text)
    multistride(
        "train", causal / "many.yaml", "--resume", "--set", f"run={tmp_path / 'run'}", check=0
    )
    assert history(tmp_path / "run") == history(causal / "many")
    one, other = (
        load_file(run / "last/model.safetensors") for run in (tmp_path / "run", causal / "many")
    )
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize(
    "way", [(), ("--mode", "exact"), ("--mode", "adaptive"), ("--temperature", 1), ("--beam", 2)]
)
def test_generate_keeps_lines_aligned(causal, multistride, way):
    # Guards: one bad prompt that shifts all the lines after it; a prompt longer than the context
    # that crashes.
    text = b"The cat sees\n\n\xff\xfe\nThe dog\n" + b"The hen " * 40 + b"\nThe"
    arguments = (
        "generate",
        "--model",
        causal / "many/best",
        "--max-tokens",
        8,
        "--group-size",
        2,
        *way,
    )
    done = multistride(*arguments, text=text, check=4)
    lines = done.stdout.decode().split("\n")
    assert len(lines) == 7
    assert (lines[2], lines[4]) == ("", "")
    assert all(lines[place] for place in (0, 3, 5))
    errors = done.stderr.decode()
    assert "line 3: it is not valid UTF-8" in errors
    assert "line 5: the prompt has" in errors
    assert "the context holds 32 with what follows: shorten it" in errors
    assert "2 of the prompts could not be continued" in errors


def test_json_has_the_text_as_it_is_and_stream_the_same(causal, multistride):
    # Guards: streamed text that differs from the whole, groups that do not add up.
    arguments = ("generate", "--model", causal / "many/best", "--max-tokens", 8, "--group-size", 2)
    prompts = "The cat\nThe owl sees\n"
    records = [
        json.loads(line)
        for line in multistride(*arguments, "--json", text=prompts, check=0).stdout.splitlines()
    ]
    streamed = multistride(*arguments, "--stream", text=prompts, check=0).stdout.decode()
    assert streamed == "".join(record["text"] + "\n" for record in records)
    assert all(sum(map(len, record["groups"])) <= 8 for record in records)
    model = Generator.load(causal / "many/best")
    results = model.generate(prompts.splitlines(), group_size=2, max_tokens=8)
    assert [list(result.tokens) for result in results] == [record["tokens"] for record in records]


def test_what_does_not_apply_is_refused(causal, work, multistride):
    # Guards: options and models that are silently taken for others.
    model, other = causal / "many/best", work / "many/best"
    output = ("--output", "x")
    refused = [
        (("generate", "--model", model, "--chat"), "this model has no chat template"),
        (
            ("generate", "--model", model, "--system", "x"),
            "--system was given, which belongs to a conversation",
        ),
        (
            ("generate", "--model", model, "--max-tokens", 0),
            "--max-tokens: Input should be greater than or equal to 1",
        ),
        (("generate", "--model", other), "has an encoder, so it translates"),
        (("translate", "--model", model), "is a causal model, which has no source to translate"),
        (
            ("prepare", *output, "--train-text", "a", "--train-source", "b"),
            "texts, pairs and records are for different",
        ),
        (
            ("prepare", *output, "--window", 9, "--train-source", "b"),
            "--window was given, which is for text",
        ),
        (
            ("train", causal / "many.yaml", "--set", f"data={work / 'data'}", "--set", "run=x"),
            "holds pairs",
        ),
        (
            ("train", work / "many.yaml", "--set", f"data={causal / 'data'}", "--set", "run=x"),
            "without sources",
        ),
        (("distill", "--model", model, "--source", "a", *output, "--beam", 4), "greedy or drawn"),
        (("distill", "--model", other, "--source", "a", *output, "--chat"), "chat was given"),
    ]
    for arguments, message in refused:
        done = multistride(*arguments, text="a\n", check=2)
        assert message in done.stderr.decode()


def test_evaluate(causal, multistride, tmp_path):
    # Guards: a result that its own table cannot show; exact mode that is not K=1's.
    (tmp_path / "prompts.txt").write_text("The cat sees\nThe owl\nThe hen runs\n")
    (tmp_path / "rest.txt").write_text(" the dog near\n sees the fox\n .\n")
    arguments = (
        "evaluate",
        "--kind",
        "generation",
        "--model",
        causal / "many/best",
        "--group-size",
        "1,2",
    )
    files = (
        "--source",
        tmp_path / "prompts.txt",
        "--reference",
        tmp_path / "rest.txt",
        "--max-tokens",
        9,
    )
    output = tmp_path / "result.json"
    multistride(*arguments, *files, "--mode", "exact,fast", "--output", output, check=0)
    result = read_result(output)
    rows = {(row.group_size, row.mode): row for row in result.rows}
    assert set(rows) == {(1, "greedy"), (2, "exact"), (2, "fast")}
    assert rows[2, "exact"].identical_to_k1 == 1.0
    assert rows[1, "greedy"].tokens_per_step == 1.0
    assert 1 < rows[1, "greedy"].perplexity < 320
    assert rows[2, "exact"].tokens_per_step >= 1.0
    assert rows[2, "exact"].perplexity == rows[1, "greedy"].perplexity != rows[2, "fast"].perplexity
    shown = multistride("report", output, "--markdown", check=0).stdout.decode()
    assert shown.count("\n") == 5
    done = multistride("report", output, "--page", tmp_path / "x.html", check=2)
    assert b"which has no page" in done.stderr


def test_a_model_learns_to_draft_its_own_text(causal, multistride, tmp_path):
    """Distil, prepare, train adapters, generate: the text stays the original's, to the last bit of
    its scores."""
    original = causal / "many/best"
    (tmp_path / "prompts.txt").write_text(
        "".join(f"The {word}\n" for word in ("cat", "dog", "fox", "owl", "hen") * 8)
    )
    written = tmp_path / "written.jsonl"
    arguments = (
        "distill",
        "--model",
        original,
        "--source",
        tmp_path / "prompts.txt",
        "--output",
        written,
    )
    multistride(
        *arguments,
        "--max-tokens",
        12,
        "--temperature",
        1,
        "--chunk",
        16,
        "--precision",
        "bfloat16",
        check=0,
    )
    manifest = json.loads((tmp_path / "written.jsonl.json").read_text())
    assert (manifest["lines"], manifest["temperature"], manifest["compute_type"]) == (
        40,
        1.0,
        "bfloat16",
    )
    assert manifest["tokens"] == sum(
        len(json.loads(line)["written"]) for line in written.read_text().splitlines()
    )
    files = ("--train-written", written, "--validation-written", written, "--vocabulary", original)
    multistride("prepare", "--output", tmp_path / "data", *files, "--window", 24, check=0)
    groups = "{sizes: {2: 0.5, 3: 0.5}, lookahead: 1.0, anchors: 6, markov_rank: 8}"
    extra = f"start_from: {original}\nadapter: {{rank: 4, alpha: 4, layers: 1}}"
    multistride("train", config(tmp_path, "drafts", groups, extra), check=0)
    losses = [
        entry["cross_entropy"]
        for entry in history(tmp_path / "drafts")
        if entry["kind"] == "training"
    ]
    assert losses[-1] < losses[0]
    before, after = (load_model(model)[0] for model in (original, tmp_path / "drafts/best"))
    assert after.config.group_sizes == (1, 2, 3)
    kept = after.state_dict()
    unchanged = [name for name in before.state_dict() if not name.startswith(("reach.", "markov."))]
    assert all(torch.equal(before.state_dict()[name], kept[name]) for name in unchanged)
    asked = ("--max-tokens", 12, "--json", "--engine", "eager")
    text = "The cat sees\nThe owl\n"
    plain = (
        multistride("generate", "--model", original, *asked, text=text, check=0)
        .stdout.decode()
        .splitlines()
    )
    drafted = ("--group-size", 3, "--mode", "exact")
    multistride("phrases", "--model", original, "--data", tmp_path / "data", check=0)
    copied = ("--group-size", 6, "--mode", "exact", "--drafts", "text")
    for model, ways in (
        (tmp_path / "drafts/best", ()),
        (tmp_path / "drafts/best", drafted),
        (original, copied),
    ):
        done = multistride("generate", "--model", model, *asked, *ways, text=text, check=0)
        for one, other in zip(plain, done.stdout.decode().splitlines(), strict=True):
            assert json.loads(one)["tokens"] == json.loads(other)["tokens"]
    (tmp_path / "prompts.txt").write_text(text)
    asked = (
        "--source",
        tmp_path / "prompts.txt",
        "--max-tokens",
        12,
        "--group-size",
        6,
        "--mode",
        "exact",
    )
    arguments = (
        "evaluate",
        "--kind",
        "generation",
        "--model",
        original,
        *asked,
        "--drafts",
        "text",
    )
    done = multistride(*arguments, "--json", check=0)
    [row] = json.loads(done.stdout)["results"]
    assert row["identical_to_k1"] == 1.0
    assert row["tokens_per_step"] > 1.0
    done = multistride(
        "generate", "--model", tmp_path / "drafts/best", "--group-size", 2, text=text, check=2
    )
    assert b"only write drafts" in done.stderr


def test_the_commands_of_the_page_run(causal, multistride, tmp_path):
    # Guards: an option renamed, a way of decoding that no longer goes with another.
    text = (Path(__file__).parents[2] / "docs/generation.md").read_text()
    commands = [
        line for line in text.splitlines() if line.startswith("multistride") and "$MODEL" in line
    ]
    assert len(commands) >= 5
    (tmp_path / "prompts.txt").write_text("The cat\nThe dog sees\n")
    (tmp_path / "continuations.txt").write_text(" sees the dog\n the cat.\n")
    records = [
        '{"source": "The cat", "reference": "sees the dog"}',
        '{"source": "The dog", "reference": "sees it"}',
    ]
    (tmp_path / "records.jsonl").write_text("".join(f"{record}\n" for record in records))
    for command in commands:
        plain, _, source = command.partition(" < ")
        words = shlex.split(plain.replace("$MODEL", str(causal / "many/best")))[1:]
        given = (tmp_path / source).read_text() if source else ""
        done = multistride(*words, text=given, cwd=tmp_path, check=0)
        if words[0] in ("generate", "score"):
            assert len(done.stdout.decode().splitlines()) == 2, command
