"""The pictures of a sentence, a trace and a frontier: well-formed, the same every time, nothing
missing."""

import json
from xml.etree import ElementTree

import pytest

from multistride.errors import DataError, UsageError
from multistride.report.attention import attention_size, draw_attention, readable, sentence_table
from multistride.report.drawing import drawing, save, svg_text
from multistride.report.plots import plot
from multistride.report.reading import upgrade
from multistride.report.result import Result
from multistride.report.trace import draw_trace, read_trace, trace_size, trace_table

FACTS = {
    "group_size": 2,
    "source_pieces": ["I", " see", "<b>&", "</s>"],
    "groups": [["Ich", " sehe"], ["</s>"]],
    "probabilities": [0.9, 0.5, 1.0],
    "confidence": [0.45, 1.0],
    "attention": [[0.7, 0.1, 0.1, 0.1], [0.1, 0.7, 0.1, 0.1], [0.1, 0.1, 0.1, 0.7]],
}


def step(number, size, kept, **more):
    facts = {
        "line": 1,
        "step": number,
        "group_size": size,
        "accepted": kept,
        "mode": "adaptive",
        "confidence": 0.5,
    }
    pieces = {"pieces": [" a"] * kept, "log_probabilities": [-0.5] * kept}
    return {**facts, **pieces, "why": "the whole group", "why_group_size": "half <&>", **more}


ENTRIES = [step(0, 1, 1), step(1, 4, 2), step(2, 8, 8)]


def drawn(draw, size, facts):
    with drawing(*size(facts)) as figure:
        draw(figure, facts)
        return figure, svg_text(figure)


@pytest.mark.parametrize(
    ("draw", "size", "facts"),
    [(draw_attention, attention_size, FACTS), (draw_trace, trace_size, ENTRIES)],
)
def test_well_formed_and_the_same_every_time(draw, size, facts):
    # Guards: random ids in files under version control; text of the data that is taken for markup.
    _, text = drawn(draw, size, facts)
    assert ElementTree.fromstring(text).tag.endswith("svg")
    assert text == drawn(draw, size, facts)[1]


def test_a_line_ends_every_step_but_the_last():
    # Guards: borders drawn at multiples of K instead of where steps ended.
    figure, _ = drawn(
        draw_attention, attention_size, {**FACTS, "groups": [["Ich"], [" sehe", "</s>"]]}
    )
    assert [line.get_ydata()[0] for line in figure.axes[0].lines] == [0.5]


def test_every_place_of_a_trace_is_drawn_and_the_kept_ones_are_filled():
    # Guards: a step drawn with the size of another one, kept and proposed mixed up.
    figure, _ = drawn(draw_trace, trace_size, ENTRIES)
    boxes = figure.axes[0].patches
    assert len(boxes) == 1 + 4 + 8
    filled = [box for box in boxes if box.get_alpha() is not None]
    assert len(filled) == 1 + 2 + 8
    said = [text.get_text() for text in figure.axes[0].texts]
    assert sum("half <&>" in text for text in said) == 3


def test_tables_have_a_row_for_each_step():
    # Guards: a step that is left out.
    assert len(trace_table(ENTRIES).rows) == 3
    assert len(sentence_table(FACTS).rows) == 2


def test_files_by_their_ending(tmp_path):
    # Guards: a PNG with the content of an SVG, half a file after a refusal.
    with drawing(*attention_size(FACTS)) as figure:
        draw_attention(figure, FACTS)
        for name, first in (("a.svg", b"<svg"), ("a.png", b"\x89PNG")):
            save(figure, tmp_path / name)
            assert (tmp_path / name).read_bytes().startswith(first)
        with pytest.raises(UsageError, match=r"neither \.svg nor \.png"):
            save(figure, tmp_path / "a.gif")
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("text", ["", "no json\n", '{"line": 1}\n', "[1]\n"])
def test_what_is_no_trace_is_refused(tmp_path, text):
    # Guards: a traceback for the wrong file.
    path = tmp_path / "trace.jsonl"
    path.write_text(text)
    with pytest.raises(DataError, match="is no trace"):
        read_trace(path, 1)


def test_the_line_of_a_trace(tmp_path):
    # Guards: steps of several sentences in one picture.
    path = tmp_path / "trace.jsonl"
    path.write_text(
        "".join(json.dumps({**step(0, 1, 1), "line": line}) + "\n" for line in (1, 3, 3))
    )
    assert len(read_trace(path, 3)) == 2
    with pytest.raises(UsageError, match="no step of line 2: it has lines from 1 to 3"):
        read_trace(path, 2)
    with pytest.raises(DataError, match="cannot be read"):
        read_trace(tmp_path / "none", 1)


def test_frontier():
    # Guards: a series that is left out, a size without its name.
    points = [
        {
            "series": series,
            "group_size": size,
            "steps_per_sentence": 9.0 / size,
            "bleu": 30.0 + size,
        }
        for series in ("fixed K", "confidence, K=8")
        for size in (1, 2)
    ]
    stored = {"name": "<test>", "created": "2026-01-01", "points": points}
    result = Result.model_validate(upgrade(stored))
    text = plot(result)
    assert ElementTree.fromstring(text).tag.endswith("svg")
    assert text == plot(result)


def test_a_piece_shows_where_words_begin():
    # Guards: a blank that nobody sees, and a blank alone taken for a word's start.
    assert [readable(piece) for piece in (" sehe", "en", " ", "▁a")] == ["␣sehe", "en", " ", "␣a"]


@pytest.mark.parametrize(
    "wrong",
    [
        *({"line": "x"}, {"confidence": "hm"}, {"pieces": [1]}, {"pieces": "ab"}, {"step": None}),
        *({"group_size": "a"}, {"accepted": 99}, {"log_probabilities": ["x"]}),
    ],
)
def test_a_trace_with_a_wrong_value_is_refused(tmp_path, wrong):
    # Guards: a traceback for a file that has the right keys.
    path = tmp_path / "trace"
    path.write_text(
        "".join(json.dumps(each) + "\n" for each in ({**ENTRIES[0]}, {**ENTRIES[0], **wrong}))
    )
    with pytest.raises(DataError, match="is no trace"):
        read_trace(path, ENTRIES[0]["line"])
