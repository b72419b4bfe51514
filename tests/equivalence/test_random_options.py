"""Options in any combination: refused in one line, or written alike by every way there is to it.

The table of single rules is `test_options_table.py`; faults between rules show only where several
meet. `EXAMPLES=5000 pytest tests/equivalence/test_random_options.py` looks longer.
"""

import os

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny_models import SENTENCES, Plain, tiny_model

from multistride.engines.eager import EagerStepModel
from multistride.engines.int8.engine import quantise
from multistride.errors import UserError
from multistride.generator import Generator
from multistride.translator import Translator

EXAMPLES = int(os.environ.get("EXAMPLES", "8"))
many = settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=EXAMPLES == 8,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)

OPTIONS = {
    "min_tokens": st.integers(0, 8),
    "max_tokens": st.integers(1, 14),
    "banned": st.sampled_from([("a",), ("cat", "s"), (" ",), ("the", "t")]),
    "banned_tokens": st.sampled_from([(7,), (9, 11), (2,), tuple(range(20, 60))]),
    "no_repeat_ngram": st.integers(0, 3),
    "prefix": st.sampled_from(["the cat", "a", "mat sat"]),
    "stop": st.sampled_from([("o",), ("at", "ea"), (" ",), ("zz",)]),
    "threshold": st.sampled_from([0.0, 0.05, 0.5, 1.0]),
    "layout": st.sampled_from(["sat", "lookahead"]),
    "policy": st.sampled_from(["fixed", "confidence", "phase", "autoregressive"]),
    "drafts": st.sampled_from(["masks", "all-masks", "text", "both"]),
    "beam": st.integers(1, 3),
    "group_beam": st.integers(1, 4),
    "length_penalty": st.sampled_from([0.0, 0.6, 1.5]),
    "temperature": st.sampled_from([0.3, 1.0]),
    "top_k": st.integers(0, 5),
    "top_p": st.sampled_from([0.3, 1.0]),
    "min_p": st.sampled_from([0.0, 0.2]),
    "seed": st.integers(0, 3),
    "batch_size": st.integers(1, 5),
}


@st.composite
def requests(draw):
    names = draw(st.sets(st.sampled_from(sorted(OPTIONS)), max_size=5))
    chosen = {name: draw(OPTIONS[name]) for name in sorted(names)}
    size = draw(st.sampled_from([1, 2, 3, 4]))
    mode = draw(st.sampled_from(["fast", "adaptive", "exact"]))
    return size, mode, chosen


@pytest.fixture(scope="module", params=["eager", "int8"])
def engine_of(request):
    if request.param == "int8":
        pytest.importorskip("onnxruntime", reason="the extra [int8] is not installed")
        return lambda model: quantise(model, threads=1)
    return EagerStepModel


@pytest.fixture(scope="module")
def translator(engine_of):
    model, vocabulary = tiny_model(markov_rank=4)
    return Translator(engine_of(model), vocabulary)


@pytest.fixture(scope="module")
def generator(engine_of):
    model, vocabulary = tiny_model(0, markov_rank=4, positions="rotary")
    return Generator(engine_of(model), vocabulary)


def wrote(model, texts, size, mode, options):
    plan = model.plan(size, mode, **options)
    return [
        (each.text, each.tokens, each.ending, each.problem) for each in model.written(texts, plan)
    ]


def refused(model, size, mode, options):
    """Return why a request is refused; None if it is not."""
    try:
        model.plan(size, mode, **options)
    except UserError as error:
        return str(error)
    return None


def check(model, request):
    size, mode, options = request
    limited = {"max_tokens": 10, **options}
    if refusal := refused(model, size, mode, limited):
        assert "\n" not in refusal
        assert len(refusal) > 20
        return
    everything = wrote(model, SENTENCES, size, mode, limited)
    assert len(everything) == len(SENTENCES)
    plain = type(model)(Plain(model.engine), model.vocabulary)
    assert wrote(plain, SENTENCES, size, mode, limited) == everything, (
        "the engine's own loop",
        request,
    )
    alone = [wrote(model, [text], size, mode, limited)[0] for text in SENTENCES]
    if options.get("policy") != "cost-model":
        assert alone == everything, ("a text depends on its batch", request)
    drawn = "temperature" in options and options.get("drafts") not in ("text", "both")
    if mode == "exact" and not drawn:
        rules = {name: value for name, value in limited.items() if name != "drafts"}
        assert wrote(model, SENTENCES, 1, "fast", rules) == everything, (
            "exact is not K=1",
            request,
        )
    if options.get("beam", 1) == 1:
        for text, (whole, *_, problem) in zip(SENTENCES, everything, strict=True):
            if problem is None:
                parts = list(model.stream(text, size, mode, **limited))
                assert "".join(part.text for part in parts) == whole, (
                    "streamed text differs",
                    request,
                )
    for text, tokens, ending, problem in everything:
        if problem is not None:
            continue
        assert ending in ("end", "limit", "stop")
        assert len(tokens) <= limited["max_tokens"]
        if limited.get("banned_tokens"):
            assert not set(limited["banned_tokens"]) & set(tokens)
        for stop in limited.get("stop", ()):
            if stop.strip():  # a translation is one line: a line end that was written is a blank
                assert stop not in text, request


@given(asked=requests())
@many
def test_translators(translator, asked):
    check(translator, asked)


@given(asked=requests())
@many
def test_causal_models(generator, asked):
    check(generator, asked)
