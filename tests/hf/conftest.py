"""A directory with a small model of each kind."""

import pytest
from directories import directory_of


@pytest.fixture
def translator(tmp_path):
    return directory_of(tmp_path / "translator", encoder_layers=2, dropout=0.0)


@pytest.fixture
def causal(tmp_path):
    return directory_of(tmp_path / "causal", encoder_layers=0, dropout=0.0)
