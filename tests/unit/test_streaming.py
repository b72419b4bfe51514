"""Groups as they are written."""

import pytest

import multistride
from multistride.errors import DataError, UsageError

TEXT = "I have never seen such a beautiful garden."


@pytest.fixture(scope="module")
def model():
    return multistride.load()


@pytest.mark.parametrize(
    "choices",
    [
        {"group_size": 1},
        {"group_size": 4},
        {"group_size": 4, "mode": "adaptive"},
        {"group_size": 4, "mode": "exact"},
        {"group_size": 2, "temperature": 1.0, "seed": 3},
    ],
    ids=["k1", "k4", "adaptive", "exact", "sampling"],
)
def test_what_comes_is_the_translation(model, choices):
    parts = list(model.stream(TEXT, **choices))
    [whole] = model.translate([TEXT], **choices)
    assert "".join(part.text for part in parts) == whole.text
    assert tuple(part.group for part in parts) == whole.trace
    assert [part.ending for part in parts] == [None] * (len(parts) - 1) + [whole.ending]


def test_no_step_is_made_before_it_is_asked_for(monkeypatch):
    # Guards: a stream that decodes everything first, or goes on after nobody listens.
    model = multistride.load(engine="eager")
    real, steps = type(model.engine).step, []
    monkeypatch.setattr(type(model.engine), "step", lambda *given: steps.append(1) or real(*given))
    stream = model.stream(TEXT, group_size=2)
    next(stream)
    assert len(steps) == 1
    stream.close()
    assert list(stream) == []
    assert len(steps) == 1


def test_what_cannot_be_streamed_is_refused_at_once(model):
    with pytest.raises(UsageError, match="beam 4 was asked for"):
        model.stream(TEXT, beam=4)
    with pytest.raises(UsageError, match="group size 9"):
        model.stream(TEXT, group_size=9)
    with pytest.raises(DataError, match="split it"):
        model.stream("long " * 10_000)
    assert list(model.stream("  ")) == []


def test_a_line_of_megabytes_is_judged_by_its_bytes(model, monkeypatch):
    # Guards: gigabytes of memory for a long line before it is said to be too long.
    plan = model.plan(1)
    monkeypatch.setattr(model, "encode", lambda texts: pytest.fail("cut into tokens"))
    monkeypatch.setattr(model, "written", lambda texts, plan: [])
    [result] = model.translate_lines([b"x" * (50 << 20)], plan)
    assert result.text == ""
    assert (
        result.problem
        == "it has 52,428,800 bytes, at most 2,097,152 are read as one text: split it"
    )
    with pytest.raises(DataError, match="52,428,800 bytes"):
        model.stream_line(b"x" * (50 << 20), plan)
