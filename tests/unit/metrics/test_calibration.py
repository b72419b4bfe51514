"""The temperature of a classifier: found where it was hidden, and no worse than none."""

import numpy as np
import pytest

from multistride.metrics.calibration import at_an_edge, fitted_temperature


@pytest.mark.parametrize("hidden", [0.5, 1.0, 3.0])
def test_a_hidden_temperature_is_found(hidden):
    """A temperature the wrong way round, or fitted on the answered class instead of the right
    one."""
    generator = np.random.default_rng(5)
    true = generator.normal(size=(20_000, 5))
    shares = np.exp(true) / np.exp(true).sum(1, keepdims=True)
    labels = (shares.cumsum(1) < generator.random((len(true), 1))).sum(1)
    assert fitted_temperature(true * hidden, labels) == pytest.approx(hidden, rel=0.05)


def test_extremes_stay_within_bounds():
    """A division by a temperature of zero where everything is right."""
    scores = np.log(np.array([[0.9, 0.1], [0.2, 0.8]]))
    assert fitted_temperature(scores, [0, 1]) == pytest.approx(0.05)
    assert fitted_temperature(scores, [1, 0]) == pytest.approx(20)
    # Guards: probabilities of 1e-22 because 50 records of 50 were right.
    assert at_an_edge(fitted_temperature(scores, [0, 1]))
    assert at_an_edge(fitted_temperature(scores, [1, 0]))
    assert not at_an_edge(1.0)
