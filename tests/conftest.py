"""Shapes written in signatures are checked while the tests run, on one thread: the models are
tiny."""

import os

import pytest
from jaxtyping import install_import_hook

SHAPED = [
    "multistride.groups",
    "multistride.model",
    "multistride.decode",
    "multistride.train",
]
install_import_hook(SHAPED, "beartype.beartype")

import torch  # noqa: E402

torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def cache_of_tests(tmp_path_factory):
    """What is kept between processes stays out of the user's cache."""
    os.environ["XDG_CACHE_HOME"] = str(tmp_path_factory.mktemp("cache"))
