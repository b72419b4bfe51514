from pathlib import Path

import pytest

from multistride.config import read_config
from multistride.train.config import RunConfig

ROOT = Path(__file__).parents[3]
FILES = sorted([*ROOT.glob("configs/*.yaml"), *ROOT.glob("examples/*/*.yaml")])


def test_there_are_presets():
    # Guards: a move of the files that leaves the next test with nothing to check.
    assert len(FILES) >= 8


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_every_configuration_we_ship_is_valid(path):
    # Guards: a renamed key that leaves a preset behind.
    read_config(path, RunConfig)
