"""Several results of one measurement in one table."""

import copy
import json

import pytest
from typer.testing import CliRunner

from multistride.cli import app
from multistride.report.result import Result
from multistride.report.seeds import table_of_seeds


@pytest.fixture
def seeds(translation):
    """Results of two seeds: BLEU 40 and 41 at K=1, 38 and 40 at K=4."""
    other = copy.deepcopy(translation)
    for row, bleu, speed in zip(other["results"], (41.0, 40.0), (1000.0, 3600.0), strict=True):
        row["bleu"], row["tokens_per_second"] = bleu, speed
    other["results"][1]["ms_per_sentence_p50"] = 40.0
    return [translation, other]


def table(*trees):
    return table_of_seeds({f"{index}.json": Result.model_validate(each) for index, each in
                           enumerate(trees)})  # fmt: skip


def column(cells, heading):
    return [row[list(cells.headings).index(heading)] for row in cells.rows]


def test_a_cell_is_the_mean_with_the_lowest_and_the_highest(seeds):
    # Guards: figures of one seed under the name of all, or a ratio to another seed's K=1.
    cells = table(*seeds)
    assert column(cells, "K") == ["1", "4"]
    assert column(cells, "BLEU") == ["40.5 (40.0–41.0)", "39.0 (38.0–40.0)"]
    assert column(cells, "% of K=1") == ["100.0", "96.3 (95.0–97.6)"]
    assert column(cells, "tokens/s") == ["1,117 (1,000–1,234)", "3,600"]
    assert column(cells, "speed up") == ["1.00×", "2.57× (2.25×–3.00×)"]
    assert column(cells, "ms/sentence p50 (p95)") == ["90.0 (180)", "35.0 (61.2)"]
    assert column(cells, "chrF") == ["60.0", "58.5"]
    assert "mean of 2 results" in cells.title


def test_a_figure_that_one_seed_lacks_has_no_mean(seeds):
    # Guards: a mean of one seed among means of two.
    seeds[1]["results"][0]["identical_to_k1"] = None
    assert "same as K=1 %" not in table(*seeds).headings


def test_metrics_of_tasks_are_averaged_too():
    # Guards: the figures that only a task has, taken from the first seed.
    row = {"group_size": 1, "mode": "fast", "engine": "eager", "seconds": 1.0}
    trees = [
        {
            "name": "topics",
            "kind": "task",
            "task": "classification",
            "created": "2026-11-13T14:02:11+00:00",
            "settings": {"records": 10},
            "results": [{**row, "records_per_second": speed, "metrics": {"accuracy": right}}],
        }
        for speed, right in ((10.0, 0.5), (30.0, 0.7))
    ]
    cells = table(*trees)
    assert column(cells, "accuracy") == ["0.6 (0.5–0.7)"]
    assert column(cells, "records/s") == ["20 (10–30)"]


@pytest.mark.parametrize("what", ["kind", "text", "settings", "rows", "BLEU signature"])
def test_results_of_other_measurements_are_refused(seeds, tmp_path, what, monkeypatch):
    # Guards: a mean over two texts or two sets of K.
    monkeypatch.chdir(tmp_path)
    one, other = seeds
    if what == "kind":
        other["kind"] = "phonemes"
    elif what == "text":
        one["settings"]["reference_sha256"], other["settings"]["reference_sha256"] = "a", "b"
    elif what == "settings":
        one["settings"]["writing"], other["settings"]["writing"] = (
            {"max_tokens": 4},
            {"max_tokens": 8},
        )
    elif what == "rows":
        other["results"].pop()
    else:
        for row in other["results"]:
            row["bleu_signature"] = "nrefs:1|tok:zh"
    for name, tree in zip(("a.json", "b.json"), seeds, strict=True):
        (tmp_path / name).write_text(json.dumps(tree))
    done = CliRunner().invoke(app, ["report", "a.json", "b.json"])
    assert f"a.json and b.json are not of one measurement (they differ in {what})" in str(
        done.exception
    )
    assert done.stdout == ""


def test_the_command_prints_the_table(seeds, tmp_path, monkeypatch):
    # Guards: Markdown of the first file alone, a page of a table that it cannot show.
    monkeypatch.chdir(tmp_path)
    for name, tree in zip(("a.json", "b.json"), seeds, strict=True):
        (tmp_path / name).write_text(json.dumps(tree))
    done = CliRunner().invoke(app, ["report", "a.json", "b.json", "--markdown"])
    assert "| 4 | 39.0 (38.0–40.0) |" in done.stdout
    assert "39.0" in CliRunner().invoke(app, ["report", "a.json", "b.json"]).stdout
    done = CliRunner().invoke(app, ["report", "a.json", "b.json", "--page", "x.html"])
    assert "2 results were given with --page or --figure" in str(done.exception)
    assert not (tmp_path / "x.html").exists()
