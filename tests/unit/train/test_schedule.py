import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from multistride.train.config import TrainingConfig
from multistride.train.schedule import learning_rate

SCHEDULES = ["inverse_sqrt", "cosine", "linear", "wsd", "constant"]


def rates(**changes):
    """The rates of all updates; `rates(...)[update - 1]` is that of `update`."""
    config = TrainingConfig(
        **{"updates": 100, "warmup_updates": 20, "learning_rate": 0.5, **changes}
    )
    return [learning_rate(config, update) for update in range(1, config.updates + 1)]


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_warm_up_rises_linearly(schedule):
    # Guards: a first update at full rate, or at rate 0, and a jump at the end of the warm-up.
    found = rates(schedule=schedule)
    assert found[:20] == pytest.approx([0.5 * update / 20 for update in range(1, 21)])
    assert max(found) == found[19] == 0.5
    assert found[20] == pytest.approx(0.5, rel=0.05)
    assert found[19:] == sorted(found[19:], reverse=True)


def test_inverse_square_root():
    # Guards: a fall counted from the end of the warm-up, where the paper counts from the first
    # update.
    found = rates(updates=500, schedule="inverse_sqrt")
    assert found[80 - 1] == pytest.approx(0.25)
    assert found[180 - 1] == pytest.approx(0.5 / 3)
    for update in (21, 50, 333, 500):
        assert found[update - 1] == pytest.approx(0.5 * math.sqrt(20 / update))


@pytest.mark.parametrize("final", [0.0, 0.1, 1.0])
def test_cosine_and_linear_end_where_they_should(final):
    # Guards: an end that is missed by one update, or a final rate taken as absolute.
    for schedule in ("cosine", "linear"):
        found = rates(schedule=schedule, final_rate=final)
        assert found[-1] == pytest.approx(0.5 * final)
        assert found[60 - 1] == pytest.approx(0.5 * (1 + final) / 2)
    quarter = 0.5 * (1 + math.cos(math.pi / 4))
    assert rates(schedule="cosine", final_rate=final)[40 - 1] == pytest.approx(
        0.5 * (final + (1 - final) * quarter)
    )
    assert rates(schedule="linear", final_rate=final)[40 - 1] == pytest.approx(
        0.5 * (final + (1 - final) * 0.75)
    )


def test_constant_stays():
    # Guards: a constant rate that decays.
    assert set(rates(schedule="constant")[19:]) == {0.5}


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_no_warm_up(schedule):
    # Guards: a division by zero, or a first update that does nothing.
    found = rates(schedule=schedule, warmup_updates=0, updates=10)
    assert found[0] == pytest.approx(0.5, rel=0.11)
    assert found == sorted(found, reverse=True)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_warm_up_as_long_as_the_run_or_longer(schedule):
    # Guards: a division by zero where nothing is left to fall in.
    assert rates(schedule=schedule, updates=20)[-1] == 0.5
    assert rates(schedule=schedule, updates=10)[-1] == 0.25


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    st.sampled_from(SCHEDULES),
    st.integers(1, 300),
    st.integers(0, 300),
    st.floats(0, 1),
    st.floats(1e-8, 10),
)
def test_rates_stay_in_bounds(schedule, updates, warmup, final, highest):
    # Guards: negative, infinite or exploding rates in some corner of the settings.
    config = TrainingConfig(
        schedule=schedule,
        updates=updates,
        warmup_updates=warmup,
        final_rate=final,
        learning_rate=highest,
    )
    # A run that is resumed with fewer updates than it has behind it asks for later ones, too.
    for update in (1, max(warmup, 1), warmup + 1, updates, updates + 50):
        assert 0 <= learning_rate(config, update) <= highest * (1 + 1e-12)


def test_warm_up_stable_decay():
    # Guards: a decay that begins with the warm-up, lasts another share, or is no straight line.
    found = rates(schedule="wsd", decay_share=0.3, final_rate=0.1)
    assert set(found[19:70]) == {0.5}
    assert found[70:] == pytest.approx([0.5 * (1 - 0.9 * place / 30) for place in range(1, 31)])


def test_a_decay_longer_than_the_training_begins_after_the_warm_up():
    # Guards: a rate that jumps down at the end of the warm-up.
    assert rates(schedule="wsd", decay_share=1.0) == pytest.approx(rates(schedule="linear"))
