"""The directory of a run: never overwritten, never mixed, never losing what is best or last."""

import json
from pathlib import Path

import pytest
import yaml

from multistride.errors import DataError, UsageError, UserError
from multistride.rundir import Asked, RunDirectory
from multistride.train.config import RunConfig

CONFIG = {"data": "here", "training": {"updates": 5, "rate": 0.001}, "sizes": [1, 2]}


def started(path, config=CONFIG, resume=False, **asked):
    """A run directory as training opens it."""
    directory = RunDirectory(path)
    directory.open(Asked(config, **asked), resume)
    directory.check_inputs()
    directory.begin(config)
    return directory


@pytest.fixture
def run(tmp_path):
    return started(tmp_path / "run")


def with_checkpoints(run, *updates):
    for update in updates:
        run.checkpoint(update).mkdir(parents=True)
        (run.checkpoint(update) / "file").write_text(str(update))
    return run


def present(run):
    return sorted(int(path.name.removeprefix("step_")) for path in run.checkpoints.iterdir())


def lines(run):
    return [json.loads(line) for line in run.metrics.read_text().splitlines()]


def test_open_writes_the_configuration(run):
    # Guards: a run nobody can repeat.
    assert yaml.safe_load((run.path / "run.yaml").read_text()) == CONFIG


def test_open_refuses_a_run_that_is_there(run):
    # Guards: days of training overwritten by pressing the up arrow.
    with_checkpoints(run, 1).commit(1)
    before = (run.path / "run.yaml").read_text()
    with pytest.raises(UsageError, match=r"holds a run already: add --resume[^\n]*\Z"):
        started(run.path)
    with pytest.raises(UsageError, match="--resume"):
        started(run.path, {"other": 1})
    assert (run.path / "run.yaml").read_text() == before


def test_open_resumes_the_same_configuration(run):
    # Guards: a run that cannot be continued.
    with_checkpoints(run, 1).commit(1)
    started(str(run.path), resume=True)


def test_open_resumes_nothing_as_a_first_run(tmp_path):
    # Guards: a script that always says --resume failing the first time.
    started(tmp_path / "run", resume=True)
    assert (tmp_path / "run" / "run.yaml").is_file()


def test_open_names_what_differs(run):
    # Guards: half a run trained with one setting and half with another.
    changed = {
        "data": "here",
        "training": {"updates": 9, "rate": 0.001, "extra": True},
        "sizes": [1, 4],
    }
    with_checkpoints(run, 1).commit(1)
    with pytest.raises(UsageError) as caught:
        started(run.path, changed, resume=True)
    message = str(caught.value)
    assert "\n" not in message
    for part in (
        "training.updates was 5, is 9",
        "training.extra was not set, is on",
        "sizes was [1, 2], is [1, 4]",
    ):
        assert part in message
    assert "rate" not in message
    assert yaml.safe_load((run.path / "run.yaml").read_text()) == CONFIG


def test_open_names_a_setting_that_is_gone(run):
    # Guards: a default that slips in where a value was set before.
    with_checkpoints(run, 1).commit(1)
    without = {name: value for name, value in CONFIG.items() if name != "sizes"}
    with pytest.raises(UsageError, match=r"sizes was \[1, 2\], is not set"):
        started(run.path, without, resume=True)


def test_a_real_configuration_equals_itself_after_yaml(tmp_path):
    # Guards: a resume refused because of how YAML writes a number, a tuple, a path or a group size.
    config = RunConfig.model_validate(
        {
            "data": "a b/ü",
            "run": str(tmp_path),
            "model": {"group_sizes": [1, 4], "dropout": 1e-9},
            "groups": {"sizes": {1: 1, 4: 0.1 + 0.2}},
            "training": {"learning_rate": 1e-5, "adam_betas": [0.9, 0.999]},
        }
    )
    run = started(tmp_path / "run", config.model_dump(mode="json"))
    with_checkpoints(run, 1).commit(1)
    started(tmp_path / "run", config.model_dump(mode="json"), resume=True)
    assert (
        RunConfig.model_validate(yaml.safe_load((tmp_path / "run" / "run.yaml").read_text()))
        == config
    )


def test_open_where_no_directory_can_be(tmp_path):
    # Guards: a traceback when a file has the name of the run.
    (tmp_path / "run").write_text("")
    with pytest.raises(UserError, match="could not write"):
        started(tmp_path / "run")


def test_links_name_checkpoints(run):
    # Guards: links that break when the run is moved, or that cannot be moved on.
    with_checkpoints(run, 1, 2)
    assert run.last() is None
    for update in (1, 2):
        run.commit(update)
        assert (run.path / "last" / "file").read_text() == str(update)
        assert run.last() == run.checkpoint(update).resolve()
    moved = RunDirectory(run.path.rename(run.path.with_name("moved")))
    assert (moved.path / "last" / "file").read_text() == "2"
    assert moved.last() == moved.checkpoint(2).resolve()
    assert sorted(path.name for path in moved.path.iterdir()) == [
        "checkpoints",
        "last",
        "record.json",
        "run.yaml",
    ]


def test_an_interrupted_link_is_no_obstacle(run):
    # Guards: a run that cannot go on because it was killed while it moved a link.
    with_checkpoints(run, 1)
    (run.path / ".last.new").symlink_to("nowhere")
    run.commit(1)
    assert run.last() == run.checkpoint(1).resolve()
    assert not (run.path / ".last.new").is_symlink()


def test_last_falls_back_to_an_older_checkpoint(run):
    # Guards: a run that starts from nothing after its newest checkpoint was deleted, as the error
    # message advises.
    with_checkpoints(run, 9, 10)
    run.commit(11)
    assert run.last() == run.checkpoint(10).resolve()


def test_prune_keeps_the_newest_by_number(run):
    # Guards: step_10 counted as older than step_9.
    with_checkpoints(run, 8, 9, 10, 11, 100)
    run.prune(3)
    assert present(run) == [10, 11, 100]
    run.prune(3)
    assert present(run) == [10, 11, 100]
    run.prune(1)
    assert present(run) == [100]


def test_prune_keeps_what_is_linked(run):
    # Guards: the best model deleted because it is old, and links that point nowhere.
    with_checkpoints(run, 1, 2, 3, 4, 5)
    run.commit(2, best=2)
    run.commit(3)
    run.prune(1)
    assert present(run) == [2, 3, 5]
    assert (run.path / "best" / "file").read_text() == "2"


def test_prune_of_nothing(run):
    # Guards: a crash before the first checkpoint.
    run.prune(2)
    with_checkpoints(run, 7)
    run.prune(2)
    assert present(run) == [7]


def test_record_appends(run):
    # Guards: metrics that overwrite each other.
    run.record({"update": 1, "text": "ü"})
    RunDirectory(run.path).record({"update": 2})
    assert lines(run) == [{"update": 1, "text": "ü"}, {"update": 2}]


def test_rewind_drops_what_will_be_written_again(run):
    # Guards: updates that appear twice in the metrics of a resumed run.
    for update in (1, 2, 2, 3, 4):
        run.record({"update": update, "loss": update / 3})
    run.rewind(2)
    assert lines(run) == [{"update": update, "loss": update / 3} for update in (1, 2, 2)]
    run.record({"update": 3})
    assert [entry["update"] for entry in lines(run)] == [1, 2, 2, 3]
    run.rewind(0)
    assert run.metrics.read_text() == ""


def test_rewind_drops_a_line_that_was_cut_short(run):
    # Guards: a run that cannot be resumed because it was killed while it wrote a line.
    run.record({"update": 1})
    with open(run.metrics, "a") as file:
        file.write('{"update": 2, "lo')
    run.rewind(5)
    run.record({"update": 2})
    assert [entry["update"] for entry in lines(run)] == [1, 2]


def test_rewind_without_metrics(run):
    # Guards: a run stopped before its first line that cannot be resumed.
    run.rewind(3)
    assert not run.metrics.exists()


def test_a_run_without_a_checkpoint_is_begun_anew(run):
    # Guards: a corrected command refused because of the command that was refused before it.
    run.record({"update": 1})
    again = started(run.path, {"other": 1})
    assert yaml.safe_load((run.path / "run.yaml").read_text()) == {"other": 1}
    assert not again.metrics.exists()


def test_a_refused_start_leaves_nothing(tmp_path):
    # Guards: an empty directory, or a run.yaml, left by a command that was refused.
    run = RunDirectory(tmp_path / "run")

    def refused():
        with run.held():
            run.open(Asked(CONFIG), resume=False)
            raise DataError("no")

    with pytest.raises(DataError):
        refused()
    assert list(tmp_path.iterdir()) == []


def test_two_at_once_are_refused(run):
    # Guards: two processes that both resume a run, and write its metrics twice.
    with (
        run.held(),
        pytest.raises(UsageError, match=r"another process is writing to [^\n]*\Z"),
        RunDirectory(run.path).held(),
    ):
        pass
    with RunDirectory(run.path).held():
        pass


def test_what_decides_is_compared_and_the_rest_is_not(tmp_path):
    # Guards: data prepared again with another tokenizer, trained on as if it were the same; a run
    # that was moved and cannot be resumed.
    config = {"data": "here", "run": "there", "training": {"keep_checkpoints": 1, "rate": 1}}
    digests = {"data_hash": "a" * 64, "vocabulary": "b" * 64, "start_from": None}
    run = started(tmp_path / "run", config, decides=digests)
    with_checkpoints(run, 1).commit(1)
    moved = {"data": "./here", "run": "x", "training": {"keep_checkpoints": 9, "rate": 1}}
    started(run.path, moved, True, decides=digests)
    for name in digests:
        with pytest.raises(UsageError, match=rf"\({name} was [^\n]*, is cccccccccccc\)"):
            started(run.path, config, True, decides={**digests, name: "c" * 64})
    faster = {**config, "training": {"keep_checkpoints": 1, "rate": 2}}
    with pytest.raises(UsageError, match=r"training\.rate was 1, is 2"):
        started(run.path, faster, True, decides=digests)
    started(run.path, faster, True, decides=digests, may_differ=lambda *_: ("training.rate",))
    assert yaml.safe_load((run.path / "run.yaml").read_text()) == faster


def test_a_kill_at_any_point_of_a_commit_is_put_right(run):
    # Guards: `best` on an older checkpoint for ever, because a kill came between the two links.
    with_checkpoints(run, 1, 2, 3)
    run.record({"update": 1})
    run.commit(1, best=1)
    run.record({"update": 2})
    run.commit(2, best=2)
    run.record({"update": 3})  # killed here: step_3 and its line were never committed
    (run.path / "best").unlink()
    (run.path / "best").symlink_to("checkpoints/step_1")
    (run.path / ".last.new").symlink_to("checkpoints/step_2")
    (run.checkpoints / ".step_3.new.abcd1234").mkdir()
    (run.path / ".record.json.new.abcd1234").touch()
    again = started(run.path, resume=True)
    again.rewind(2)
    assert (run.path / "best" / "file").read_text() == "2"
    assert again.last() == run.checkpoint(2).resolve()
    assert [entry["update"] for entry in lines(run)] == [1, 2]
    assert present(run) == [1, 2]
    assert [path.name for path in run.path.rglob(".*")] == []


def test_a_run_of_an_older_version_is_resumed(run):
    # Guards: runs without record.json taken for runs that never began.
    with_checkpoints(run, 1, 2)
    (run.path / "last").symlink_to("checkpoints/step_2")
    (run.path / "best").symlink_to("checkpoints/step_1")
    with pytest.raises(UsageError, match="--resume"):
        started(run.path)
    again = started(run.path, resume=True)
    assert again.last() == run.checkpoint(2).resolve()
    with_checkpoints(run, 3).commit(3)
    assert (run.path / "best" / "file").read_text() == "1"


@pytest.mark.parametrize("name", ["run.yaml", "record.json"])
@pytest.mark.parametrize("data", [b"\xff", b"{", b"- 1", b"[" * 100_000, b"", b"a: 2001-01-01"])
def test_damaged_records_are_one_line(run, name, data):
    # Guards: a traceback for one bad byte.
    with_checkpoints(run, 1).commit(1)
    (run.path / name).write_bytes(data)
    with pytest.raises(UserError, match=r"\A[^\n]*\Z") as caught:
        started(run.path, resume=True)
    assert str(run.path) in str(caught.value)


def test_a_damaged_line_of_the_metrics_is_left_out(run):
    # Guards: a traceback for one bad byte in metrics that are read again.
    for update in (1, 2):
        run.record({"update": update})
    run.metrics.write_bytes(b"\xff\n[]\n3\n" + run.metrics.read_bytes())
    run.rewind(5)
    assert [entry["update"] for entry in lines(run)] == [1, 2]


def test_a_copied_run_whose_links_became_directories_is_resumed(run):
    # Guards: `cp -rL` and zip, which follow links: "Is a directory".
    with_checkpoints(run, 1, 2).commit(1, best=1)
    run.commit(2)
    for name in ("best", "last"):
        target = (run.path / name).resolve()
        (run.path / name).unlink()
        (run.path / name).mkdir()
        (run.path / name / "file").write_text((target / "file").read_text())
    resumed = started(run.path, resume=True)
    assert (run.path / "best").readlink().name == "step_1"
    assert resumed.last() == run.checkpoint(2).resolve()
    assert (run.path / "best.copy1" / "file").read_text() == "1"


def test_checkpoints_without_a_record_are_not_overwritten(run):
    # Guards: a restored run without its record and links, which --resume began from nothing.
    with_checkpoints(run, 1, 2)
    with pytest.raises(DataError, match=r"restore one of them"):
        started(run.path, resume=True)
    assert present(run) == [1, 2]


def test_metrics_with_other_line_ends_are_not_cut_in_the_middle(run):
    # Guards: bytes counted in one file and cut in another, which left half a line.
    for update in (1, 2):
        run.record({"update": update})
    with_checkpoints(run, 2).commit(2)
    run.record({"update": 3})
    text = run.metrics.read_bytes()
    run.metrics.write_bytes(text.replace(b"\n", b" \r\n"))
    run.rewind(2)
    assert [line["update"] for line in lines(run)] == [1, 2]


@pytest.mark.parametrize("length", [10**6, 2**63 - 1])
def test_metrics_shorter_than_recorded_are_read_line_by_line(run, length):
    # Guards: a length in a damaged record that no file position holds.
    run.record({"update": 1})
    with_checkpoints(run, 1).commit(1)
    run.record({"update": 2})
    record = json.loads((run.path / "record.json").read_text())
    (run.path / "record.json").write_text(json.dumps({**record, "metrics": length}))
    run.rewind(1)
    assert [line["update"] for line in lines(run)] == [1]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_metrics_on_a_full_disk(tmp_path):
    # Guards: "standard output: No space left on device" for a line of metrics.jsonl.
    run = RunDirectory(tmp_path)
    run.metrics = Path("/dev/full")
    with pytest.raises(UserError, match=r"could not write /dev/full: .*last checkpoint is whole"):
        run.record({"update": 1})
