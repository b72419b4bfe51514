"""The directory of a run: never overwritten, never mixed, never losing what is best or last."""

import json

import pytest
import yaml

from multistride.errors import UsageError, UserError
from multistride.rundir import RunDirectory
from multistride.train.config import RunConfig

CONFIG = {"data": "here", "training": {"updates": 5, "rate": 0.001}, "sizes": [1, 2]}


@pytest.fixture
def run(tmp_path):
    directory = RunDirectory(tmp_path / "run")
    directory.open(CONFIG, resume=False)
    return directory


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
    before = (run.path / "run.yaml").read_text()
    with pytest.raises(UsageError, match=r"holds a run already: add --resume[^\n]*\Z"):
        RunDirectory(run.path).open(CONFIG, resume=False)
    with pytest.raises(UsageError, match="--resume"):
        RunDirectory(run.path).open({"other": 1}, resume=False)
    assert (run.path / "run.yaml").read_text() == before


def test_open_resumes_the_same_configuration(run):
    # Guards: a run that cannot be continued.
    RunDirectory(str(run.path)).open(CONFIG, resume=True)


def test_open_resumes_nothing_as_a_first_run(tmp_path):
    # Guards: a script that always says --resume failing the first time.
    RunDirectory(tmp_path / "run").open(CONFIG, resume=True)
    assert (tmp_path / "run" / "run.yaml").is_file()


def test_open_names_what_differs(run):
    # Guards: half a run trained with one setting and half with another.
    changed = {
        "data": "here",
        "training": {"updates": 9, "rate": 0.001, "extra": True},
        "sizes": [1, 4],
    }
    with pytest.raises(UsageError) as caught:
        run.open(changed, resume=True)
    message = str(caught.value)
    assert "\n" not in message
    for part in (
        "training.updates was 5, is 9",
        "training.extra was None, is True",
        "sizes was [1, 2], is [1, 4]",
    ):
        assert part in message
    assert "data" not in message
    assert "rate" not in message
    assert yaml.safe_load((run.path / "run.yaml").read_text()) == CONFIG


def test_open_names_a_setting_that_is_gone(run):
    # Guards: a default that slips in where a value was set before.
    with pytest.raises(UsageError, match=r"data was here, is None"):
        run.open({name: value for name, value in CONFIG.items() if name != "data"}, resume=True)


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
    RunDirectory(tmp_path / "run").open(config.model_dump(mode="json"), resume=False)
    RunDirectory(tmp_path / "run").open(config.model_dump(mode="json"), resume=True)
    assert (
        RunConfig.model_validate(yaml.safe_load((tmp_path / "run" / "run.yaml").read_text()))
        == config
    )


def test_open_where_no_directory_can_be(tmp_path):
    # Guards: a traceback when a file has the name of the run.
    (tmp_path / "run").write_text("")
    with pytest.raises(UserError, match="could not write"):
        RunDirectory(tmp_path / "run").open(CONFIG, resume=False)


def test_links_name_checkpoints(run):
    # Guards: links that break when the run is moved, or that cannot be moved on.
    with_checkpoints(run, 1, 2)
    assert run.last() is None
    for update in (1, 2):
        run.point("last", update)
        assert (run.path / "last" / "file").read_text() == str(update)
        assert run.last() == run.checkpoint(update).resolve()
    moved = RunDirectory(run.path.rename(run.path.with_name("moved")))
    assert (moved.path / "last" / "file").read_text() == "2"
    assert moved.last() == moved.checkpoint(2).resolve()
    assert sorted(path.name for path in moved.path.iterdir()) == ["checkpoints", "last", "run.yaml"]


def test_an_interrupted_link_is_no_obstacle(run):
    # Guards: a run that cannot go on because it was killed while it moved a link.
    with_checkpoints(run, 1)
    (run.path / ".last.new").symlink_to("nowhere")
    run.point("last", 1)
    assert run.last() == run.checkpoint(1).resolve()
    assert not (run.path / ".last.new").is_symlink()


def test_last_falls_back_to_an_older_checkpoint(run):
    # Guards: a run that starts from nothing after its newest checkpoint was deleted, as the error
    # message advises.
    with_checkpoints(run, 9, 10)
    run.point("last", 11)
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
    run.point("best", 2)
    run.point("last", 3)
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
