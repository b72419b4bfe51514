"""Tables, picture and marks made from benchmark results."""

import copy
import json

import pytest

from multistride.errors import DataError, UsageError
from multistride.report.benchmark import benchmark_markdown, heading, ratios_table, rows_table
from multistride.report.marks import filled
from multistride.report.outputs import Outputs
from multistride.report.plots import pareto, plot
from multistride.report.reading import read_result
from multistride.report.result import Result, crossings
from multistride.report.show import show, show_file
from multistride.report.tables import markdown

_TIMING = {
    "group_size": 1,
    "mode": "fast",
    "beam": 1,
    "engine": "int8",
    "precision": "int8",
    "batch_size": 1,
    "threads": 1,
    "cpu": "Some CPU",
    "steps_per_sentence": 12.0,
    "tokens_per_step": 1.0,
    "ms_per_sentence": 40.0,
    "ms_per_sentence_spread": [39.0, 44.0],
    "ms_per_sentence_p50": 38.0,
    "ms_per_sentence_p95": 80.0,
    "tokens_per_second": 250.0,
    "repetition_rate": 0.01,
    "identical_to_k1": 1.0,
    "bleu": 38.0,
    "bleu_signature": "nrefs:1",
    "chrf": 60.0,
    "chrf_signature": "nrefs:1",
    "length_ratio": 1.0,
    "memory_peak_mb": 400.0,
    "memory_libraries_mb": 230.0,
    "bandwidth_fraction": 0.5,
}
_OWN = {"own-k1": [1.0, 1.0], "ctranslate2-int8": [1.0, 1.2]}


def _row(**changes):
    ratios = changes.pop("ratios", {"own-k1": 1.0, "ctranslate2-int8": 1.1})
    return {**_TIMING, **changes, "ratio_to": ratios, "ratio_spread": dict(_OWN)}


_RESULT = {
    "name": "Base",
    "kind": "benchmark",
    "created": "2026-11-24T20:00:00+00:00",
    "settings": {"sentences": 64, "rounds": 3, "shape": "6+6 layers, width 512"},
    "results": [
        _row(),
        _row(
            group_size=4,
            ms_per_sentence=10.0,
            bleu=37.0,
            ratios={"own-k1": 4.0, "ctranslate2-int8": 4.4},
        ),
        _row(batch_size=8, ms_per_sentence=9.0, ratios={"own-k1": 1.0, "ctranslate2-int8": 0.9}),
        _row(
            batch_size=8,
            group_size=4,
            ms_per_sentence=6.0,
            bleu=37.0,
            ratios={"own-k1": 1.5, "ctranslate2-int8": 1.35},
        ),
    ],
    "baselines": [
        {**_TIMING, "name": "own-k1"},
        {
            **_TIMING,
            "name": "ctranslate2-int8",
            "engine": "ctranslate2-int8",
            "ms_per_sentence": 44.0,
        },
        {**_TIMING, "name": "own-k1", "batch_size": 8},
        {**_TIMING, "name": "ctranslate2-int8", "engine": "ctranslate2-int8", "batch_size": 8},
    ],
}


@pytest.fixture
def stored():
    """The object of a benchmark result, free to change."""
    return copy.deepcopy(_RESULT)


@pytest.fixture
def result(stored):
    rows = Result.model_validate(stored).rows
    return Result.model_validate(
        {**stored, "crossings": [each.model_dump() for each in crossings(rows)]}
    )


def test_crossings_by_hand(result):
    # Guards: K=1 compared with itself, a crossing where the ratio is still above 1.
    found = {(each.baseline, each.group_size): each.batch_size for each in result.crossings}
    assert found == {("own-k1", 4): None, ("ctranslate2-int8", 1): 8, ("ctranslate2-int8", 4): None}


def test_no_ratio_without_engine_threads_and_cpu(result):
    # Guards: a table copied out of its page that tells nothing.
    for text in (heading(result), benchmark_markdown(result).splitlines()[0]):
        for part in (
            "Base",
            "6+6 layers",
            "engine int8 (int8)",
            "1 thread",
            "Some CPU",
            "64 sentences",
        ):
            assert part in text
    stored = json.loads(json.dumps(result.written()))
    assert all({"engine", "threads", "cpu", "precision"} <= row.keys() for row in stored["results"])


def test_markdown(result):
    # Guards: a column under the wrong heading.
    text = benchmark_markdown(result)
    assert "| batch | K | ms/sentence | × own-k1 | × ctranslate2-int8 | BLEU |" in text
    assert (
        "| 1 | 4 | 10.0 | 4.00 (1.00–1.00) | 4.40 (1.00–1.20) | 37.0 | 100 | 1.00 | 250 | 400 | "
        "230 | 50 |" in text
    )
    assert "| 1 | ctranslate2-int8 | 44.0 | 38.0 |" in text
    assert (
        "- Slower than ctranslate2-int8 (int8, fast): K=1 at batch 8; at no batch size for K=4."
        in text
    )
    assert "BLEU `nrefs:1`" in text


def test_columns_that_rows_differ_in(stored):
    # Guards: rows of two engines or modes that look alike.
    stored["results"][1].update(engine="eager", mode="exact")
    headings = rows_table(Result.model_validate(stored)).headings
    assert headings[:4] == ["batch", "engine", "mode", "K"]


def test_ratios_by_batch_and_group_size(result):
    # Guards: the table of the summary disagreeing with the rows.
    cells = ratios_table(result, "ctranslate2-int8")
    assert cells.headings == ["engine", "mode", "batch", "K=1", "K=4"]
    assert [row[3][:4] for row in cells.rows] == ["1.10", "0.90"]
    assert [row[4][:4] for row in cells.rows] == ["4.40", "1.35"]


def test_marked_tables_are_made_anew(result, tmp_path):
    # Guards: a page whose tables are older than its result files.
    (tmp_path / "one.json").write_text(json.dumps(result.written()))
    ratios = "<!-- ratios one.json ctranslate2-int8 -->\nold\n<!-- end -->\n"
    page = f"# A\n\n{ratios}\n<!-- bench one.json -->\n<!-- end -->\n"
    new = filled(page, tmp_path)
    assert "old" not in new
    assert new.count("Some CPU") == 2
    assert filled(new, tmp_path) == new
    with pytest.raises(DataError, match="has no baseline nobody; it has own-k1"):
        filled("<!-- ratios one.json nobody -->\n<!-- end -->", tmp_path)
    assert "Not measured yet" in filled("<!-- bench two.json -->\n<!-- end -->", tmp_path)


def test_profile(tmp_path):
    # Guards: shares of something else than the whole.
    parts = {"network decoder": 6.0, "host": 2.0, "all": 8.0}
    settings = {
        "model": "small",
        "engine": "int8",
        "precision": "int8",
        "threads": 1,
        "cpu": "Some CPU",
    }
    row = {"batch_size": 8, "group_size": 4, "ms_per_sentence": parts}
    (tmp_path / "p.json").write_text(json.dumps({"settings": settings, "parts": [row]}))
    text = markdown(read_result(tmp_path / "p.json"))
    assert text.startswith("small: engine int8 (int8), 1 thread(s), Some CPU.")
    assert "| batch | K | network decoder | host | all |" in text
    assert "| 8 | 4 | 6.00 (75) | 2.00 (25) | 8.00 |" in text
    assert text in filled("<!-- parts p.json -->\n<!-- end -->", tmp_path)


def test_reading(result, tmp_path):
    # Guards: an evaluation taken for a benchmark, an unknown key ignored.
    path = tmp_path / "one.json"
    path.write_text(json.dumps(result.written()))
    assert read_result(path) == result
    older = {name: value for name, value in result.written().items() if name != "kind"}
    path.write_text(json.dumps(older))
    assert read_result(path) == result, "older benchmarks did not say their kind"
    path.write_text(json.dumps({**json.loads(path.read_text()), "more": 1}))
    with pytest.raises(DataError, match="more: Extra inputs"):
        read_result(path)


def test_pareto_front(result):
    # Guards: a dominated point drawn as worth choosing.
    rows = result.rows
    assert pareto(rows) == [False, False, True, True]
    assert pareto([rows[0], rows[0]]) == [True, True]


def test_picture(result, stored):
    # Guards: a picture that differs from run to run, or that does not say what it was measured on.
    assert plot(result) == plot(result)
    assert plot(result).startswith("<svg")
    for row in (*stored["results"], *stored["baselines"]):
        row.update(bleu=None, bleu_signature=None)
    with pytest.raises(UsageError, match="without a reference"):
        plot(Result.model_validate(stored))


def test_shown(result, tmp_path, capsys):
    # Guards: files that are not written, a table among JSON.
    files = [tmp_path / name for name in ("out.json", "out.md", "out.svg")]
    output, table, picture = files
    show(result, Outputs(output=output, markdown=table, picture=picture, as_json=True))
    assert json.loads(capsys.readouterr().out) == result.written()
    assert read_result(output) == result
    assert files[1].read_text() == benchmark_markdown(result)
    show_file(files[0])
    assert "Some CPU" in capsys.readouterr().out
    show_file(files[0], as_markdown=True)
    assert capsys.readouterr().out == benchmark_markdown(result)
    with pytest.raises(UsageError, match="which has no page: leave --page out"):
        show_file(files[0], tmp_path / "page.html")


def test_startup(tmp_path):
    # Guards: seconds and megabytes in each other's column.
    settings = {"runs": 5, "threads": 1, "group_size": 4, "caches": "warm", "cpu": "Some CPU"}
    row = {"engine": "int8", "seconds": 1.5, "seconds_spread": [1.25, 2.0], "memory_peak_mb": 412.0}
    (tmp_path / "s.json").write_text(json.dumps({"settings": settings, "startups": [row]}))
    text = filled("<!-- startup s.json -->\n<!-- end -->", tmp_path)
    assert "K=4: 1 thread(s), Some CPU, file caches warm. Median of 5 runs." in text
    assert "| int8 | 1.50 (1.25–2.00) | 412 |" in text
