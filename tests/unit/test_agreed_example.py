"""Which target a source gets for the last stage of the model that ships."""

import sys
from pathlib import Path
from runpy import run_path

import pytest

EXAMPLE = Path(__file__).parents[2] / "examples" / "english-german"


@pytest.fixture(scope="module")
def target():
    sys.path.insert(0, str(EXAMPLE))
    try:
        return run_path(str(EXAMPLE / "agreed.py"))["target"]
    finally:
        sys.path.remove(str(EXAMPLE))


def test_what_both_models_say_is_taken_where_the_reference_is_free(target):
    free, plain = "Ich komme mir ganz hilflos vor.", "Ich fühle mich hilflos."
    assert target([free], plain, plain, True) == plain
    assert target([free], plain, plain, False) == free
    assert target([free], plain, "Sie ist krank.", True) == free
    assert target(["Hallo."], plain, plain, True) == "Hallo."


def test_a_near_reference_stays_and_the_nearest_of_several_is_taken(target):
    near, own = "Ich fühle mich so hilflos.", "Ich fühle mich hilflos."
    assert target([near], own, own, True) == near
    assert target(["Ach.", near], "Ach.", own, False) == near
