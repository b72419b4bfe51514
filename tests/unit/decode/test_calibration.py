"""Temperatures: found where they were put, applied where they belong, and gone where there are
none."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from multistride.decode.accept import confident_prefix, first_certain
from multistride.decode.choosing.calibration import (
    CERTAIN,
    Calibration,
    KeptShares,
    PlaceCalibration,
    corrector,
    fitted,
    scaled,
)
from multistride.decode.pick import Picked
from multistride.metrics.calibration import calibration_error

quick = settings(max_examples=80, deadline=None, derandomize=True)


def sigmoid(odds):
    return 1 / (1 + np.exp(-odds))


@pytest.mark.parametrize(("temperature", "shift"), [(0.4, 0.0), (1.0, 1.2), (2.5, -0.7)])
def test_temperature_and_shift_are_found_again(temperature, shift):
    # Guards: a fit of the inverse, a search that stops at its border, an error that does not fall.
    random = np.random.default_rng(1)
    odds = random.normal(0.5, 2, 40_000)
    right = random.random(40_000) < sigmoid(odds / temperature + shift)
    hot, moved = fitted(sigmoid(odds), right)
    assert (hot, moved) == (pytest.approx(temperature, rel=0.05), pytest.approx(shift, abs=0.06))
    assert calibration_error(sigmoid(odds / hot + moved), right) < 0.02
    assert calibration_error(sigmoid(odds), right) > 0.05


@quick
@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), max_size=30))
def test_any_counts_give_a_temperature(rows):
    # Guards: a probability of 0 or 1, no tokens, all right or all wrong.
    confidence, right = (
        np.array([row[0] for row in rows]),
        np.array([row[1] for row in rows], dtype=bool),
    )
    temperature, shift = fitted(confidence, right)
    assert temperature == CERTAIN or 0.05 <= temperature <= 20
    assert math.isfinite(shift)
    assert rows or (temperature, shift) == (1.0, 0.0)
    assert 0 <= calibration_error(confidence, right) <= 1


def test_calibration_error_by_hand():
    # Guards: bins weighted alike whatever they hold, the sign of a distance lost inside a bin.
    confidence, right = np.array([0.9, 0.9, 0.1, 1.0]), np.array([True, False, False, True])
    assert calibration_error(confidence, right) == pytest.approx((0.8 + 0.1 + 0.0) / 4)


@quick
@given(st.floats(-20, 0), st.floats(0.1, 10), st.floats(-3, 3))
def test_scaled_is_the_sigmoid_of_the_odds(log_probability, temperature, shift):
    # Guards: odds that overflow where a probability is 1 or all but 0.
    result = (
        scaled(*(torch.tensor([[value]]) for value in (log_probability, temperature, shift)))
        .exp()
        .item()
    )
    probability = min(math.exp(log_probability), 1 - 1.2e-7)
    odds = math.log(probability) - math.log1p(-probability)
    assert result == pytest.approx(sigmoid(odds / temperature + shift), abs=1e-3)
    assert 0 <= result <= 1


def plain(*temperatures):
    """Temperatures without shifts."""
    return [(temperature, 0.0) for temperature in temperatures]


def test_each_row_has_the_temperatures_of_its_size():
    # Guards: temperatures of another size or place; a size that was not measured left without any.
    correct = corrector({2: plain(CERTAIN, 1.0), 4: plain(CERTAIN, 2.0, 4.0, 8.0)})
    values = torch.full((3, 4), 0.8).log()
    rows = correct(values, torch.tensor([2, 3, 4])).exp()
    expected = [float(sigmoid(math.log(4) / each)) for each in (1.0, 2.0, 4.0, 8.0)]
    assert rows[0, :2].tolist() == pytest.approx([1.0, expected[0]], abs=1e-4)
    assert rows[1, :3].tolist() == pytest.approx([1.0, expected[1], expected[2]], abs=1e-4)
    assert rows[2].tolist() == pytest.approx([1.0, *expected[1:]], abs=1e-4)


def test_adaptive_mode_uses_them():
    # Guards: a calibration that is read and not used; the first token counted against the group.
    picked = Picked(torch.tensor([[5, 6, 7]]), torch.tensor([[0.2, 0.6, 0.9]]).log())
    sizes = torch.tensor([3])
    assert confident_prefix(0.5)(picked, sizes).tolist() == [1]
    assert confident_prefix(0.5, first_certain)(picked, sizes).tolist() == [3]
    assert confident_prefix(0.5, corrector({3: plain(CERTAIN, 0.2, 1.0)}))(
        picked, sizes
    ).tolist() == [3]
    assert confident_prefix(0.8, corrector({3: plain(CERTAIN, 0.2, 8.0)}))(
        picked, sizes
    ).tolist() == [2]


def test_what_was_measured_is_found():
    # Guards: shares of another layout or size, a threshold that is not the nearest.
    place = {
        "temperature": 1.0,
        "shift": 0.0,
        "tokens": 9,
        "confidence": 0.5,
        "error_before": 0.1,
        "error_after": 0.1,
    }
    rows = [
        PlaceCalibration(layout="lookahead", group_size=2, place=number, right=share, **place)
        for number, share in ((1, 1.0), (2, 0.75))
    ]
    kept = [
        KeptShares(layout="lookahead", group_size=2, threshold=threshold, shares=(1 - threshold,))
        for threshold in (0.0, 0.5, 1.0)
    ]
    found = Calibration(
        model_sha256="", truth="own-k1", sentences=9, source_sha256="", places=rows, kept=kept
    )
    assert found.right_shares("lookahead", 2) == [0.75]
    assert found.right_shares("sat", 2) == []
    assert found.kept_at("lookahead", 2, 0.6) == [0.5]
    assert found.kept_at("lookahead", 4, 0.6) is None
    assert found.sureness("sat") is None
