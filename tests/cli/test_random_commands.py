"""Command lines put together by chance: a result for every line, or one line of refusal.

`EXAMPLES=2000 pytest tests/cli/test_random_commands.py` looks longer.
"""

import json
import os

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny_models import SENTENCES, tiny_model
from typer.testing import CliRunner

from multistride.cli import app
from multistride.errors import UserError
from multistride.model.weights import save_model

EXAMPLES = int(os.environ.get("EXAMPLES", "15"))
many = settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=EXAMPLES == 15,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)

LINES = st.lists(
    st.sampled_from(
        [
            *(sentence.encode() for sentence in SENTENCES),
            *(
                b"",
                b"   ",
                b"\xff\xfe",
                b"\xef\xbb\xbfa dog",
                "犬 ♥".encode(),
                b"cat\rmat",
                b"a\x00b",
            ),
            b"the sea " * 30,
        ]
    ),
    max_size=6,
)
DECODING = {
    "--group-size": ["1", "2", "4", "auto", "0", "9", "two"],
    "--mode": ["fast", "adaptive", "exact", "slow"],
    "--beam": ["1", "2", "0"],
    "--group-beam": ["1", "3", "0"],
    "--batch-size": ["1", "2", "0"],
    "--threshold": ["0.3", "2"],
    "--policy": ["fixed", "confidence", "phase", "autoregressive"],
    "--layout": ["sat", "lookahead"],
    "--drafts": ["masks", "text", "both"],
    "--min-tokens": ["0", "3", "-1"],
    "--max-tokens": ["1", "6", "0", "500"],
    "--no-repeat-ngram": ["0", "2"],
    "--prefix": ["the cat", "", "犬"],
    "--stop": ["o", ""],
    "--temperature": ["0", "0.8", "-1", "nan"],
    "--top-k": ["0", "3"],
    "--top-p": ["0.5", "0"],
    "--seed": ["0", "7"],
    "--length-penalty": ["0.5"],
}
RUNNING = {
    "--engine": ["eager", "int8", "auto", "gpu", "fast"],
    "--threads": ["1", "0"],
    "--buffer": ["1", "2"],
    "--json": [None],
    "--show-groups": [None],
    "--stream": [None],
    "--window": ["1", "2"],
    "--chat": [None],
}
OF_VERBS = {"translate": {"--chat"}, "generate": {"--window", "--prefix"}}
"""Options that a verb does not have."""


@st.composite
def commands(draw, verb):
    pool = {**DECODING, **RUNNING}
    names = draw(st.sets(st.sampled_from(sorted(set(pool) - OF_VERBS[verb])), max_size=5))
    words = []
    for name in sorted(names):
        value = draw(st.sampled_from(pool[name]))
        words += [name] if value is None else [f"{name}={value}"]
    return words, draw(LINES)


def saved(directory, encoder_layers, **shape):
    model, vocabulary = tiny_model(encoder_layers, markov_rank=4, **shape)
    save_model(directory, model, vocabulary, {}, "# A model of the tests\n")
    return directory


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    place = tmp_path_factory.mktemp("random")
    return {
        "translate": saved(place / "translator", 1),
        "generate": saved(place / "causal", 0, positions="rotary"),
    }


def check(model, verb, words, lines):
    data = b"".join(line + b"\n" for line in lines)
    limited = [] if any(word.startswith("--max-tokens") for word in words) else ["--max-tokens=8"]
    if any(word.startswith("--window") for word in words):
        limited = []
    done = CliRunner().invoke(app, [verb, "--model", str(model), *words, *limited], input=data)
    if done.exception is not None and not isinstance(done.exception, (UserError, SystemExit)):
        raise AssertionError(f"{verb} {words} on {lines}") from done.exception
    refusal = str(done.exception or "")
    assert "\n" not in refusal
    complete = done.exception is None or done.exit_code == 4 or "could not be" in refusal
    if not complete:
        assert len(refusal) > 15, (words, done.output)
        return
    written = done.stdout_bytes.decode()
    if "--stream" in words:
        return
    if "--json" in words:
        objects = [json.loads(line) for line in written.splitlines()]
        assert len(objects) == len(lines), (words, lines)
    elif verb == "translate":
        assert written.count("\n") == len(lines), (words, lines, written)


@given(asked=commands("translate"))
@many
def test_translate(models, asked):
    check(models["translate"], "translate", *asked)


@given(asked=commands("generate"))
@many
def test_generate(models, asked):
    check(models["generate"], "generate", *asked)
