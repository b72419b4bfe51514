"""Tiny models, and a server over them."""

import pytest
from tiny_server import Running, tiny

from multistride.generator import Generator
from multistride.translator import Translator


@pytest.fixture(scope="session")
def models():
    return {"translator": tiny(Translator), "generator": tiny(Generator)}


@pytest.fixture(scope="module")
def server(models):
    with Running(models) as running:
        yield running
