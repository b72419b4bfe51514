"""When a run may get another number of updates."""

import pytest

from multistride.train.config import RunConfig
from multistride.train.loop import same_until

SIZES = {1: 0.5, 2: 0.5}


def config(updates, groups=None, **training):
    return RunConfig.model_validate(
        {
            "data": "data",
            "run": "run",
            "model": {},
            "groups": {"sizes": SIZES, **(groups or {})},
            "training": {"updates": updates, "warmup_updates": 10, **training},
        }
    )


@pytest.mark.parametrize(
    ("schedule", "done"),
    [("inverse_sqrt", 100), ("constant", 100), ("wsd", 60), ("cosine", 10), ("linear", 10)],
)
def test_a_run_may_be_longer_as_long_as_its_rates_were_the_same(schedule, done):
    # Guards: half a run at the rates of a short schedule and half at those of a long one.
    training = {"schedule": schedule, "decay_share": 0.4}
    short, long = config(100, **training), config(200, **training)
    assert same_until(short, long, done)
    assert same_until(long, short, done)
    assert done == 100 or not same_until(short, long, done + 2)


def test_a_run_is_not_shorter_than_it_is():
    # Guards: a run of 100 updates that says it had 50.
    long, short = config(100, schedule="constant"), config(50, schedule="constant")
    assert same_until(long, short, 50)
    assert not same_until(long, short, 51)


@pytest.mark.parametrize(
    "groups", [{"glancing": 0.3}, {"curriculum": [{"until": 0.5, "sizes": {2: 1.0}}]}]
)
def test_what_depends_on_the_share_that_is_done_keeps_its_length(groups):
    # Guards: groups that were drawn for another length.
    assert not same_until(config(100, groups), config(200, groups), 1)
