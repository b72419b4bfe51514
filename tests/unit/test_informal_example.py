"""Formal German made informal, by the script that writes interface text."""

import sys
from pathlib import Path
from runpy import run_path

import pytest

EXAMPLE = Path(__file__).parents[2] / "examples" / "english-german"


@pytest.fixture(scope="module")
def informal():
    sys.path.insert(0, str(EXAMPLE))
    try:
        return run_path(str(EXAMPLE / "interface.py"))["informal"]
    finally:
        sys.path.remove(str(EXAMPLE))
        sys.modules.pop("corpus", None)  # other examples have one too


@pytest.mark.parametrize(
    ("formal", "expected"),
    [
        ("Möchten Sie speichern?", "Möchtest du speichern?"),
        ("Geben Sie bitte Ihr Kennwort ein.", "Gib bitte dein Kennwort ein."),
        ("Bitte wählen Sie einen anderen Namen.", "Bitte wähle einen anderen Namen."),
        ("Klicken Sie hier, oder drücken Sie F2.", "Klicke hier, oder drücke F2."),
        ("Ändern Sie das. Sie können gehen.", "Ändere das. Du kannst gehen."),
        ("Ihre Datei wird Ihnen gezeigt.", "Deine Datei wird dir gezeigt."),
        ("Sammeln Sie Zeilen.", "Sammle Zeilen."),
        ("Wenn Sie gehen, bleibt es.", None),  # the verb is at the end
        ("Melden Sie sich an.", None),  # the pronoun would change too
        ("Kein Sie mehr.", None),
    ],
)
def test_formal_text_is_made_informal_or_left_out(informal, formal, expected):
    # Guards: training text that is half formal, and so teaches both at once.
    assert informal(formal) == expected
