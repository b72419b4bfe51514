"""Settings of a distillation that would decide nothing."""

import pytest

from multistride.distill.config import DistillConfig
from multistride.errors import UsageError

FILES = {"model": "teacher", "source": "source", "output": "output"}


@pytest.mark.parametrize(
    ("causal", "given", "what"),
    [
        (False, {"beam": 1, "length_penalty": 0.6}, "length_penalty 0.6 was given"),
        (True, {"seed": 3}, "seed 3 was given"),
        (True, {"seed": 3, "temperature": 0.0}, "seed 3 was given"),
    ],
)
def test_settings_without_a_use_are_refused(causal, given, what):
    # Guards: a length penalty without a beam, and a seed without sampling, that are ignored.
    with pytest.raises(UsageError, match=what):
        DistillConfig(**FILES, **given).for_model(causal)


def test_settings_with_a_use():
    # Guards: the rules above where there is a beam, or sampling.
    assert DistillConfig(**FILES, length_penalty=0.6).for_model(False).beam == 4
    assert DistillConfig(**FILES, seed=3, temperature=1.0).for_model(True).seed == 3
