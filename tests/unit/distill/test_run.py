"""A corpus distilled: aligned, resumable, described by its manifest."""

import gzip
import hashlib
import json
import logging
import lzma
import os

import pytest

from multistride import parts as parts_module
from multistride.baselines import ctranslate2 as engine_module
from multistride.config import validate
from multistride.distill import run
from multistride.distill.config import DistillConfig
from multistride.distill.run import distill
from multistride.distill.teacher import Teacher
from multistride.errors import DataError, Interrupted, MissingExtraError, UsageError, UserError
from multistride.parts import PartsDirectory
from multistride.translator import Translator


def settings(corpus, teacher, **changes):
    files = {"model": teacher, "source": corpus / "source", "output": corpus / "out"}
    return DistillConfig(**{**files, "engine": "eager", "beam": 1, "chunk": 5, **changes})


def output_lines(config):
    return config.output.read_text().split("\n")[:-1]


@pytest.fixture
def stopping(monkeypatch):
    """Make the teacher fail with an error after some chunks."""

    def stop(after, error):
        translate, calls = Teacher.translate, []

        def fails(self, lines, progress=lambda count: None):
            calls.append(len(lines))
            if len(calls) > after:
                raise error
            return translate(self, lines, progress)

        monkeypatch.setattr(Teacher, "translate", fails)
        return monkeypatch.undo

    return stop


@pytest.mark.parametrize(("engine", "beam"), [("eager", 1), ("ctranslate2", 2)])
def test_lines_stay_aligned(corpus, teacher_directory, engine, beam):
    # Guards: one bad line that shifts the lines after it; an order by length that is not undone.
    config = settings(corpus, teacher_directory, engine=engine, beam=beam)
    manifest = distill(config)
    lines = output_lines(config)
    assert len(lines) == 12
    assert [number for number, line in enumerate(lines, 1) if not line] == [3, 6, 9]
    assert manifest["empty_lines"] == {"blank source": 1, "invalid utf-8": 1, "too long": 1}
    assert (manifest["lines"], manifest["translated_lines"]) == (12, 9)
    if engine == "eager":
        sources = (corpus / "source").read_bytes().split(b"\n")
        alone = Translator.load(teacher_directory, "cpu", "eager").translate(
            [sources[place].decode() for place in (3, 6)]
        )
        assert [lines[3], lines[6]] == [translation.text for translation in alone]
    assert not PartsDirectory(config.output).path.exists()


def test_the_manifest_says_how_it_was_made(corpus, teacher_directory, caplog):
    # Guards: an output that nobody can trace or check.
    validation = {"validation_source": corpus / "valid", "validation_reference": corpus / "valid"}
    (corpus / "valid").write_text("a b\nc d\n")
    config = settings(corpus, teacher_directory, target=corpus / "target", **validation)
    caplog.set_level(logging.INFO)
    manifest = distill(config)
    assert json.loads((corpus / "out.json").read_text()) == manifest
    assert manifest["output_sha256"] == hashlib.sha256(config.output.read_bytes()).hexdigest()
    assert manifest["source_sha256"] == hashlib.sha256((corpus / "source").read_bytes()).hexdigest()
    assert (manifest["teacher"], manifest["engine"], manifest["beam"]) == (
        str(teacher_directory),
        "eager",
        1,
    )
    assert manifest["changed_share"] == 1.0
    assert manifest["length_ratio_to_source"] > 0
    assert manifest["length_ratio_to_target"] > 0
    assert manifest["validation"]["bleu_signature"].startswith("nrefs:1")
    assert any("BLEU" in line for line in caplog.messages)


def test_a_resumed_run_equals_an_uninterrupted_one(corpus, teacher_directory, stopping, caplog):
    # Guards: work lost or done twice, and a resumed output that differs.
    whole = settings(corpus, teacher_directory, output=corpus / "whole")
    distill(whole)
    config = settings(corpus, teacher_directory)
    undo = stopping(1, KeyboardInterrupt())
    with pytest.raises(Interrupted, match="the same command resumes") as caught:
        distill(config)
    assert caught.value.exit_code == 130
    assert not config.output.exists()
    undo()
    caplog.set_level(logging.INFO)
    distill(config)
    assert "5 of 12 lines are done already" in caplog.messages
    assert config.output.read_bytes() == whole.output.read_bytes()


def test_ctrl_c_while_the_parts_are_opened(corpus, teacher_directory, monkeypatch):
    # Guards: a moment in which the parts are there, but Ctrl-C does not say how to go on.
    def interrupted(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(parts_module, "write_json", interrupted)
    config = settings(corpus, teacher_directory)
    with pytest.raises(Interrupted, match="the same command resumes"):
        distill(config)
    monkeypatch.undo()
    assert distill(config)["lines"] == 12


def test_a_damaged_part_is_done_again(corpus, teacher_directory, stopping, caplog):
    # Guards: a part cut short by a bad disk that ends up in the output.
    whole = settings(corpus, teacher_directory, output=corpus / "whole")
    distill(whole)
    config = settings(corpus, teacher_directory)
    undo = stopping(2, OSError(5, "Input/output error"))
    with pytest.raises(OSError, match="Input/output"):
        distill(config)
    undo()
    part = corpus / "out.parts/000001.part"
    part.write_bytes(part.read_bytes()[:-4])
    caplog.set_level(logging.INFO)
    distill(config)
    assert any("000001.part is damaged; it is done again" in line for line in caplog.messages)
    assert config.output.read_bytes() == whole.output.read_bytes()


def test_changed_settings_or_source_are_refused(corpus, teacher_directory, stopping):
    # Guards: half of a corpus by one beam and half by another; parts of one source beside the lines
    # of another.
    undo = stopping(1, KeyboardInterrupt())
    with pytest.raises(Interrupted):
        distill(settings(corpus, teacher_directory))
    undo()
    with pytest.raises(UsageError, match="batch_size was 64, is 3; chunk was 5, is 4"):
        distill(settings(corpus, teacher_directory, chunk=4, batch_size=3))
    with open(corpus / "source", "a") as file:
        file.write("a\n")
    with pytest.raises(UsageError, match=r"lines was 12, is 13; source_sha256 was"):
        distill(settings(corpus, teacher_directory))


@pytest.mark.parametrize("crashing", ["out.json", "out"])
def test_a_crash_between_the_output_and_its_manifest(
    corpus, teacher_directory, monkeypatch, crashing
):
    # Guards: an output without a manifest, or one that no command can finish.
    config = settings(corpus, teacher_directory)
    replace = os.replace

    def crash(source, destination):
        if os.path.basename(destination) == crashing:
            raise OSError(5, "crash")
        replace(source, destination)

    monkeypatch.setattr(os, "replace", crash)
    with pytest.raises(UserError, match="crash"):
        distill(config)
    monkeypatch.undo()
    assert not config.output.exists()
    distill(config)
    assert len(output_lines(config)) == 12
    assert sorted(path.name for path in corpus.iterdir()) == ["out", "out.json", "source", "target"]


def test_a_source_that_changes_meanwhile(corpus, teacher_directory, monkeypatch):
    # Guards: translations joined with a source that is no longer theirs.
    write = run._write_parts

    def change(job, progress):
        write(job, progress)
        (corpus / "source").write_text("a b\n" * 12)

    monkeypatch.setattr(run, "_write_parts", change)
    with pytest.raises(DataError, match="other source lines"):
        distill(settings(corpus, teacher_directory))
    assert not (corpus / "out").exists()


def test_an_output_that_came_while_it_was_stopped_is_not_replaced(
    corpus, teacher_directory, monkeypatch
):
    # Guards: a file of that name lost because parts of an earlier start are there.
    config = settings(corpus, teacher_directory)

    def interrupted(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as stopped:
        stopped.setattr(run, "_join", interrupted)
        with pytest.raises(Interrupted):
            distill(config)
    config.output.write_text("precious")
    with pytest.raises(UsageError, match="--overwrite"):
        distill(config)
    assert config.output.read_text() == "precious"
    config.output.unlink()
    assert distill(config)["lines"] == 12


def test_an_output_that_is_there(corpus, teacher_directory, caplog):
    # Guards: a result of hours lost to a repeated command, or a corpus overwritten with itself.
    config = settings(corpus, teacher_directory)
    config.output.write_text("precious")
    with pytest.raises(UsageError, match="--overwrite"):
        distill(config)
    assert config.output.read_text() == "precious"
    manifest = distill(settings(corpus, teacher_directory, overwrite=True))
    assert len(output_lines(config)) == 12
    caplog.set_level(logging.INFO)
    assert distill(config) == manifest
    assert any("nothing to do" in line for line in caplog.messages)
    with pytest.raises(UsageError, match="made otherwise"):
        distill(settings(corpus, teacher_directory, beam=3))
    config.output.write_text("edited by hand")
    with pytest.raises(UsageError, match="made otherwise"):
        distill(config)
    config.output.unlink()
    assert distill(config)["output_sha256"] == manifest["output_sha256"]
    with pytest.raises(UsageError, match="also read"):
        distill(settings(corpus, teacher_directory, output=corpus / "source", overwrite=True))
    with pytest.raises(UsageError, match="is a directory"):
        distill(settings(corpus, teacher_directory, output=corpus, overwrite=True))


def test_files_that_do_not_align_are_refused_at_once(corpus, teacher_directory):
    # Guards: hours of decoding before it is known that the target has another number of lines.
    (corpus / "target").write_text("a\n")
    with pytest.raises(DataError, match=r"12 lines and .* has 1"):
        distill(settings(corpus, teacher_directory, target=corpus / "target"))
    (corpus / "source").write_bytes(b"")
    with pytest.raises(DataError, match="is empty"):
        distill(settings(corpus, teacher_directory))
    with pytest.raises(DataError, match="no model directory"):
        distill(settings(corpus, corpus, source=corpus / "target"))
    assert sorted(path.name for path in corpus.iterdir()) == ["source", "target"]


@pytest.mark.parametrize(("name", "opened"), [("out.gz", gzip.open), ("out.xz", lzma.open)])
def test_compressed_by_name_and_equal_each_time(corpus, teacher_directory, name, opened):
    # Guards: plain text under a name that promises compression; a time stamp that makes equal
    # outputs differ.
    plain = settings(corpus, teacher_directory)
    distill(plain)
    packed = settings(corpus, teacher_directory, output=corpus / name)
    distill(packed)
    first = packed.output.read_bytes()
    with opened(packed.output) as file:
        assert file.read() == plain.output.read_bytes()
    distill(packed.model_copy(update={"overwrite": True}))
    assert packed.output.read_bytes() == first


def test_the_engine_is_chosen_aloud(corpus, teacher_directory, monkeypatch, caplog):
    # Guards: a slow engine taken in silence, or one taken that was not asked for.
    caplog.set_level(logging.INFO)
    assert distill(settings(corpus, teacher_directory, engine="auto"))["engine"] == "ctranslate2"
    assert caplog.messages[0].startswith("engine: ctranslate2 4")
    monkeypatch.setattr(engine_module, "ctranslate2", None)
    caplog.clear()
    caplog.set_level(logging.INFO)
    again = settings(corpus, teacher_directory, engine="auto", overwrite=True)
    assert distill(again)["engine"] == "eager"
    assert "engine: eager" in caplog.messages[0]
    assert "multistride[bench]" in caplog.messages[0]
    with pytest.raises(MissingExtraError, match="bench"):
        distill(settings(corpus, teacher_directory, engine="ctranslate2", overwrite=True))


def test_settings_that_make_no_sense(corpus, teacher_directory):
    # Guards: a traceback, or a silent default, for a wrong option.
    for wrong in (
        {"beam": 0},
        {"chunk": 0},
        {"engine": "fast"},
        {"validation_source": corpus / "source"},
    ):
        name = next(iter(wrong))
        tree = settings(corpus, teacher_directory).model_dump() | wrong
        with pytest.raises(UsageError, match=name):
            validate(DistillConfig, tree, "distill")
