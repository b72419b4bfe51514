"""Shapes written in signatures are checked while the tests run, on one thread: the models are
tiny."""

import functools
import os
from collections import Counter

import hypothesis  # noqa: F401 - before `gc.freeze()`, after which it takes generators for lost
import jaxtyping
import pytest

SHAPED = [
    "multistride.groups",
    "multistride.model",
    "multistride.decode",
    "multistride.train",
]
FIRST, THEN = 8, 31
"""Calls of a function whose shapes are checked: so many at the start of a test, then every so
manieth. Checking them all took three quarters of the tests' time."""

calls = Counter()


def now_and_then(jaxtyped, **settings):
    """Return a decorator like `jaxtyped(**settings)` that checks some of a function's calls."""

    def decorate(function):
        if isinstance(function, type):
            return jaxtyped(function, **settings)
        code, checked = function.__code__, None

        @functools.wraps(function)
        def called(*args, **kwargs):
            nonlocal checked
            calls[code] += 1
            if calls[code] > FIRST and calls[code] % THEN:
                return function(*args, **kwargs)
            if checked is None:
                checked = jaxtyped(function, **settings)
            return checked(*args, **kwargs)

        return called

    return decorate


jaxtyping.jaxtyped = functools.partial(now_and_then, jaxtyping.jaxtyped)
jaxtyping.install_import_hook(SHAPED, "beartype.beartype")

import torch  # noqa: E402

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def check_the_first_calls_of_every_test():
    calls.clear()


@pytest.fixture(scope="session", autouse=True)
def cache_of_tests(tmp_path_factory):
    """What is kept between processes stays out of the user's cache."""
    os.environ["XDG_CACHE_HOME"] = str(tmp_path_factory.mktemp("cache"))
