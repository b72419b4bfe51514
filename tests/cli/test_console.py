"""Between the verbs and the terminal."""

import pytest
import typer

from multistride.cli.console import run
from multistride.errors import Interrupted


@pytest.mark.parametrize(
    ("raised", "said"),
    [
        (KeyboardInterrupt(), "interrupted"),
        (Interrupted("stopped; go on from here"), "stopped; go on from here"),
    ],
)
def test_ctrl_c_is_told_in_one_line(raised, said, monkeypatch, capsys):
    # Guards: typer swallowing Ctrl-C, which ended a command with code 130 and not a word.
    app = typer.Typer()

    @app.command()
    def verb() -> None:
        raise raised

    monkeypatch.setattr("sys.argv", ["multistride"])
    with pytest.raises(SystemExit) as ended:
        run(app)
    assert ended.value.code == 130
    assert capsys.readouterr().err == f"multistride: error: {said}\n"
