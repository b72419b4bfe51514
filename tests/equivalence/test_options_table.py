"""Options x modes x engines: each combination is refused, or written alike by all ways to it.

An engine's own loop (`shortcut`) writes what the plain loop writes with that engine; exact mode
writes what K=1 writes, samples too where drafts are not drawn; a batch writes what its texts get
alone. Whatever an option asks for holds for every text.
"""

from itertools import product

import pytest
from tiny_models import Plain, tiny_model

from multistride.decode import plan as planning
from multistride.decode.options import DecodeOptions
from multistride.engines.eager import EagerStepModel
from multistride.engines.int8.engine import quantise
from multistride.errors import UsageError
from multistride.translator import Translator

TEXTS = ["the cat sat on the mat", "a dog", "two cats ran to the sea"]
LIMITS = {"limit_ratio": 1.0, "limit_extra": 8}
MODES = ("fast", "adaptive", "exact")
RULES = {
    "none": {},
    "min": {"min_tokens": 9},
    "max": {"max_tokens": 5},
    "banned": {"banned": ("a",)},
    "banned tokens": {"banned_tokens": (9, 11)},
    "ngram": {"no_repeat_ngram": 2},
    "prefix": {"prefix": "the cat"},
    "stop": {"stop": ("o",)},
    "threshold": {"threshold": 0.2},
    "lookahead": {"layout": "lookahead"},
    "sat": {"layout": "sat"},
    "phase": {"policy": "phase"},
    "text": {"drafts": "text"},
    "both": {"drafts": "both"},
    "all masks": {"drafts": "all-masks"},
    "beam": {"beam": 2},
    "sampling": {"temperature": 0.8, "seed": 3},
    "top p": {"temperature": 0.8, "top_p": 0.5},
    "sampled text": {"temperature": 0.8, "seed": 3, "drafts": "text"},
    "sampled both": {"temperature": 0.8, "top_p": 0.9, "drafts": "both"},
}
REFUSED = {
    ("fast", "threshold"): "threshold",
    ("fast", "text"): "drafts",
    ("fast", "both"): "drafts",
    ("fast", "sampled text"): "drafts",
    ("fast", "sampled both"): "drafts",
    ("adaptive", "sampled text"): "drafts",
    ("adaptive", "sampled both"): "drafts",
    ("adaptive", "text"): "drafts",
    ("adaptive", "both"): "drafts",
    ("fast", "all masks"): "drafts",
    ("adaptive", "all masks"): "drafts",
    ("adaptive", "beam"): "beam",
    ("exact", "beam"): "beam",
    ("exact", "threshold"): "threshold",
    ("exact", "lookahead"): "layout",
    ("exact", "sat"): "layout",
    ("exact", "phase"): "policy",
}


@pytest.fixture(scope="module", params=["eager", "int8"])
def translator(request):
    if request.param == "int8":
        pytest.importorskip("onnxruntime", reason="the extra [int8] is not installed")
    model, vocabulary = tiny_model(texts=TEXTS)
    engine = EagerStepModel(model) if request.param == "eager" else quantise(model, threads=1)
    return Translator(engine, vocabulary)


def tokens(translator, size, mode, rule, texts=TEXTS):
    written = translator.translate(texts, size, mode, **LIMITS, **rule)
    return [each.tokens for each in written]


@pytest.mark.parametrize(("mode", "rule"), list(product(MODES, RULES)))
def test_each_combination(translator, mode, rule):
    options = RULES[rule]
    if problem := REFUSED.get((mode, rule)):
        with pytest.raises(UsageError, match=problem) as refused:
            translator.translate(TEXTS, 4, mode, **options)
        assert "\n" not in str(refused.value)
        return
    written = translator.translate(TEXTS, 4, mode, **LIMITS, **options)
    found = [each.tokens for each in written]
    plain = Translator(Plain(translator.engine), translator.vocabulary)
    assert tokens(plain, 4, mode, options) == found
    assert tokens(translator, 4, mode, options, TEXTS[1:2]) == found[1:2]
    if mode == "exact" and ("temperature" not in options or "drafts" in options):
        rules = {name: value for name, value in options.items() if name != "drafts"}
        assert tokens(translator, 1, "fast", rules) == found
    holds(rule, written, translator)


def holds(rule, written, translator):
    """Check that every text is as the rule wants it."""
    for each in written:
        if rule == "min":
            assert len(each.tokens) >= 9
        if rule == "max":
            assert len(each.scores) <= 5
        if rule == "banned":
            assert "a" not in each.text
        if rule == "banned tokens":
            assert not {9, 11} & set(each.tokens)
        if rule == "ngram":
            pairs = list(zip(each.tokens, each.tokens[1:], strict=False))
            assert len(set(pairs)) == len(pairs)
        if rule == "prefix":
            assert each.text.startswith("the cat")
        if rule == "stop":
            assert "o" not in each.text
    assert len({each.tokens for each in written}) > 1


def test_options_are_checked_once_and_rules_built_once(translator, monkeypatch):
    """Options that five rooms check again, and rules about text that are built for every batch."""
    counts = {"checked": 0, "built": 0}
    checked, built = DecodeOptions.checked, planning.constraints_of

    def count_checked(self, config):
        counts["checked"] += 1
        return checked(self, config)

    def count_built(*arguments):
        counts["built"] += 1
        return built(*arguments)

    monkeypatch.setattr(DecodeOptions, "checked", count_checked)
    monkeypatch.setattr(planning, "constraints_of", count_built)
    for mode in MODES:
        counts.update(checked=0, built=0)
        translator.translate(TEXTS, 4, mode, **LIMITS, stop=("q",), banned=("z",), batch_size=1)
        assert counts == {"checked": 1, "built": 1}
