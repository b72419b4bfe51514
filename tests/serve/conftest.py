"""Tiny models, and a server over them."""

import numpy as np
import pytest
from tiny_server import Running, tiny

from multistride.decode.phrases import PhraseTable
from multistride.generator import Generator
from multistride.serve.served import Defaults
from multistride.translator import Translator


@pytest.fixture(scope="session")
def models():
    return {"translator": tiny(Translator), "generator": tiny(Generator)}


@pytest.fixture(scope="module")
def server(models):
    with Running(models) as running:
        yield running


@pytest.fixture(scope="module")
def untrained():
    """A server over a model of which only exact mode writes groups, with drafts from text."""
    model = tiny(Generator, group_sizes=(1,), lookahead=False)
    model.measured.phrases = PhraseTable(np.array([[5, 6]], dtype=np.int32))
    with Running({"generator": model}, defaults=Defaults("auto")) as running:
        yield running
