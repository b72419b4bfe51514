"""Small result files, as `multistride evaluate --json` prints them."""

import copy

import pytest

_ROW = {
    "group_size": 1,
    "mode": "fast",
    "beam": 1,
    "engine": "eager",
    "bleu": 40.0,
    "bleu_signature": "nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:2.6.0",
    "chrf": 60.0,
    "chrf_signature": "nrefs:1|case:mixed|eff:yes|nc:6|nw:0|space:no|version:2.6.0",
    "exact_match": 0.75,
    "token_error_rate": 0.125,
    "steps_per_sentence": 20.0,
    "tokens_per_step": 1.0,
    "ms_per_sentence_p50": 90.0,
    "ms_per_sentence_p95": 180.0,
    "tokens_per_second": 1234.4,
    "repetition_rate": 0.004,
    "length_ratio": 0.98,
    "identical_to_k1": 1.0,
    "repetition_at_borders": 0.01,
    "repetition_inside": None,
}

_TRANSLATION = {
    "name": "English to German",
    "kind": "translation",
    "created": "2026-11-13T14:02:11+00:00",
    "settings": {
        "model": "models/small",
        "parameters": 61000000,
        "cpu": "Some CPU",
        "device": "cpu",
        "precision": "float32",
        "threads": 2,
        "anything": {"else": [1, 2]},
    },
    "results": [
        _ROW,
        _ROW
        | {
            "group_size": 4,
            "bleu": 38.0,
            "chrf": 58.5,
            "exact_match": 0.5,
            "token_error_rate": 0.25,
            "steps_per_sentence": 5.5,
            "tokens_per_step": 3.6,
            "ms_per_sentence_p50": 30.0,
            "ms_per_sentence_p95": 61.25,
            "tokens_per_second": 3600.0,
            "repetition_rate": 0.02,
            "identical_to_k1": None,
        },
    ],
    "places": [
        {
            "group_size": 4,
            "place": 1,
            "tokens": 50,
            "cross_entropy": 1.5,
            "accuracy": 0.625,
            "confidence": 0.5,
            "entropy": 2.0,
            "calibration_error": 0.125,
        }
    ],
    "examples": [
        {
            "source": "a <script>alert('source')</script> & [bold]sentence[/bold]",
            "reference": "ein <b>Satz</b>",
            "outputs": [
                {
                    "group_size": 1,
                    "text": "ein Satz.",
                    "groups": [["▁ein"], ["▁Sa"], ["tz"], ["."]],
                },
                {"group_size": 2, "text": "ein Satz.", "groups": [["▁ein", "▁Sa"], ["tz", "."]]},
                {"group_size": 4, "text": "ein Satz.", "groups": [["▁ein", "▁Sa", "tz", "."]]},
            ],
        }
    ],
}


@pytest.fixture
def translation():
    """The object of a translation result, free to change."""
    return copy.deepcopy(_TRANSLATION)


@pytest.fixture
def phonemes(translation):
    """The object of a phoneme result, free to change."""
    output = {"group_size": 2, "text": "K AE1 T", "groups": [["K", "AE1"], ["T"]]}
    example = {"source": "cat", "reference": "K AE1 T", "outputs": [output]}
    return translation | {"name": "CMUdict", "kind": "phonemes", "examples": [example]}
