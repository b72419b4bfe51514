"""The picture: always the same for the same result, well-formed, and safe to put into a page."""

import itertools
from pathlib import Path
from xml.etree import ElementTree

import pytest
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from multistride.errors import MissingExtraError
from multistride.report import drawing
from multistride.report.plots import caption, draw_benchmark, plot
from multistride.report.reading import read_result
from multistride.report.result import Result


def _drawn_labels(monkeypatch, value):
    """The K labels of a picture, with their boxes in pixels."""
    kept = []

    class KeptFigure(Figure):
        def __init__(self, *arguments, **options):
            super().__init__(*arguments, **options)
            kept.append(self)

    monkeypatch.setattr(drawing, "Figure", KeptFigure)
    plot(Result.model_validate(value))
    FigureCanvasSVG(kept[0])
    return {
        text.get_text(): text.get_window_extent()
        for text in kept[0].axes[0].texts
        if text.get_text().startswith("K=")
    }


@pytest.mark.parametrize("kind", ["translation", "phonemes"])
def test_is_one_svg_element(request, kind):
    # guards: an XML prolog in the middle of the page, or a broken document
    text = plot(Result.model_validate(request.getfixturevalue(kind)))
    assert ElementTree.fromstring(text).tag == "{http://www.w3.org/2000/svg}svg"
    assert text.startswith("<svg")


def test_same_result_same_text(translation):
    # guards: random ids or today's date in a file kept under version control
    result = Result.model_validate(translation)
    text = plot(result)
    assert text == plot(result)
    assert "dc:date" not in text


def test_loads_nothing(translation):
    # guards: a picture that reaches for the network
    text = plot(Result.model_validate(translation))
    assert "<image" not in text
    assert "url(http" not in text
    assert 'href="http' not in text


def test_hostile_name(translation):
    # guards: markup, comment ends, TeX and unknown scripts in a name breaking the picture or
    # warning
    translation["name"] = "<script>alert(1)</script> --> $x^{$ 変換"
    text = plot(Result.model_validate(translation))
    assert "<script" not in text
    ElementTree.fromstring(text)


@pytest.mark.parametrize("fall", [0.02, 1.0])
@pytest.mark.parametrize(
    "times", [(90.0, 60.0, 45.0, 40.0), (5.0, 5.01, 5.02, 5.03), (0.0, 0.0, 0.0, 0.0)]
)
def test_labels_do_not_overlap(monkeypatch, translation, times, fall):
    # guards: "K=4" written over "K=8" when two points are close
    row = translation["results"][0]
    translation["results"] = [
        row | {"group_size": 2**index, "ms_per_sentence_p50": time, "bleu": 40.0 - fall * index}
        for index, time in enumerate(times)
    ]
    labels = _drawn_labels(monkeypatch, translation)
    assert set(labels) == {"K=1", "K=2", "K=4", "K=8"}
    for one, other in itertools.combinations(labels.values(), 2):
        assert not one.overlaps(other)


@pytest.mark.parametrize("name", ["bench-base", "bench-small", "bench-modes"])
def test_labels_of_a_benchmark_cover_no_label_and_no_line(name):
    # guards: "K=4" over "K=8" and over lines, because boxes were measured at another resolution
    # than the picture has, and before the axes had their limits
    result = read_result(Path(__file__).parents[3] / f"results/{name}.json")
    with drawing.drawing(11.4, 4.6) as figure:
        draw_benchmark(figure, result)
        drawing.svg_text(figure)
        for axes in figure.axes:
            boxes = [text.get_window_extent() for text in axes.texts]
            for one, other in itertools.combinations(boxes, 2):
                assert not one.overlaps(other)
            for line in axes.lines:
                drawn = line.get_transform().transform_path(line.get_path())
                assert not any(drawn.intersects_bbox(box, filled=False) for box in boxes)


def test_single_row(translation):
    # guards: axes limits of zero width for one measurement
    del translation["results"][1]
    assert plot(Result.model_validate(translation)).startswith("<svg")


def test_caption_names_the_machine(translation):
    # guards: times without the settings they were measured with
    result = Result.model_validate(translation)
    assert caption(result) == "Measured on: Some CPU · float32 · 2 threads · batch 1"
    translation["settings"] = {"device": "cuda", "cpu": "Some CPU", "threads": 1}
    result = Result.model_validate(translation)
    assert caption(result) == "Measured on: cuda · 1 thread · batch 1"
    assert caption(result.model_copy(update={"conditions": {}})) == "Measured on: batch 1"


def test_without_matplotlib(monkeypatch, translation):
    # guards: an ImportError traceback that does not say what to install
    monkeypatch.setattr(drawing, "matplotlib", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'multistride\[report\]'"):
        plot(Result.model_validate(translation))
