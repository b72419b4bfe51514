"""Work that several processes share: order, loss of workers, errors. Ray's part is skipped without
Ray.
"""

import os
import signal

import pytest
from typer.testing import CliRunner

from multistride.cli import app
from multistride.cluster.spread import here
from multistride.errors import DataError, UsageError, UserError


def test_here_keeps_the_order_and_opens_once():
    opened = []

    def opening():
        opened.append(1)
        return lambda item: item * item

    assert list(here(opening, range(4))) == [(0, 0), (1, 1), (2, 4), (3, 9)]
    assert len(opened) == 1


@pytest.mark.filterwarnings("ignore:Tip. In future versions of Ray:FutureWarning")
@pytest.mark.system
def test_ray_loses_and_repeats_nothing_when_a_worker_is_killed(tmp_path, capsys):
    """The item of a dead worker is lost, done twice, or out of order; Ray prints into our data, or
    takes SIGTERM for itself.
    """
    pytest.importorskip("ray", reason="the extra [ray] is not installed")
    from multistride.cluster.pool import Pool, Resources, connected  # noqa: PLC0415, the extra

    before = signal.getsignal(signal.SIGTERM)
    with connected("local"):
        assert signal.getsignal(signal.SIGTERM) is before
        _lose_workers(Pool(Resources(workers=1)), tmp_path / "killed")
    assert capsys.readouterr().out == ""


def _lose_workers(pool, flag):

    def opening():
        def work(item):
            if item == 2 and not flag.exists():
                flag.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            return item * item

        return work

    assert list(pool(opening, range(6))) == [(item, item * item) for item in range(6)]
    assert flag.exists()

    def failing():
        raise DataError("no model there")

    with pytest.raises(DataError, match=r"^no model there$"):
        list(pool(failing, [1]))

    def poisoned():
        return lambda item: os.kill(os.getpid(), signal.SIGKILL)

    with pytest.raises(UserError, match="part 1 of the work ended 3 workers"):
        list(pool(poisoned, [1]))


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--workers", "2"], "--workers 2 was given without --ray"),
        (["--ray", "--stream"], "leave --ray or --stream out"),
        (["--ray", "auto", "--window", "2"], "leave --ray or --window out"),
    ],
)
def test_what_has_no_meaning_together_is_refused(options, reason):
    with pytest.raises(UsageError, match=reason):
        CliRunner().invoke(app, ["translate", *options], catch_exceptions=False)


def test_a_cluster_that_is_not_there_is_one_line_at_once():
    """Ray itself tries for minutes, and writes about it."""
    pytest.importorskip("ray", reason="the extra [ray] is not installed")
    with pytest.raises(UserError, match=r"no Ray cluster answers at 127\.0\.0\.1:9 \("):
        CliRunner().invoke(app, ["translate", "--ray", "127.0.0.1:9"], catch_exceptions=False)
