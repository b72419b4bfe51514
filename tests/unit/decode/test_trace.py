import math

import pytest

from multistride.decode.hypothesis import Group
from multistride.decode.options import DecodeOptions
from multistride.decode.trace import trace_entries


def group(step, kept, probability=0.5):
    return Group(step, 4, tuple(range(kept)), (math.log(probability),) * kept, 1.5)


def why(groups, ending, **choices):
    return [entry["why"] for entry in trace_entries(groups, ending, DecodeOptions(**choices), list)]


@pytest.mark.parametrize(
    ("choices", "kept", "expected"),
    [
        ({}, 4, "the whole group"),
        (
            {"mode": "adaptive", "threshold": 0.25},
            2,
            "with the next token the joint probability would fall below 0.25",
        ),
        ({"mode": "adaptive"}, 4, "the whole group"),
        ({"mode": "exact"}, 3, "2 drafts were right"),
        ({"mode": "exact"}, 1, "no draft was right, or there was none"),
        ({"beam": 2}, 4, "part of the best hypothesis"),
    ],
)
def test_reasons(choices, kept, expected):
    # Guards: a reason of another mode; the last group is short because the sentence is over,
    # whatever the mode.
    groups = [group(0, kept), group(1, 1)]
    assert why(groups, "end", **choices) == [expected, "the sentence is over"]
    assert why(groups, "limit", **choices) == [expected, "the length limit"]


def test_numbers():
    # Guards: a confidence that is a sum of logarithms, counts of what was proposed for what was
    # kept.
    (entry,) = trace_entries(
        [group(3, 2)], "cancelled", DecodeOptions(), lambda tokens: [f"<{each}>" for each in tokens]
    )
    assert (entry["step"], entry["group_size"], entry["accepted"], entry["milliseconds"]) == (
        3,
        4,
        2,
        1.5,
    )
    assert entry["confidence"] == 0.25
    assert entry["pieces"] == ["<0>", "<1>"]
    assert entry["why"] == "cancelled"
    assert (entry["policy"], entry["why_group_size"]) == ("fixed", "fixed group size")


def test_the_reason_of_a_policy_is_kept():
    # Guards: a trace that names another policy than the one that chose.
    chosen = Group(0, 2, (5,), (0.0,), reason="half")
    options = DecodeOptions(mode="adaptive", policy="phase", group_size=2)
    (entry,) = trace_entries([chosen], "end", options, list)
    assert (entry["policy"], entry["why_group_size"]) == ("phase", "half")
    assert (
        next(trace_entries([chosen], "end", DecodeOptions(mode="adaptive"), list))["policy"]
        == "confidence"
    )
