"""Options made from the fields of models."""

from pathlib import Path
from typing import Annotated, Literal

import pytest
import typer
from pydantic import BaseModel, ConfigDict, Field
from typer.testing import CliRunner

from multistride.cli.fields import Fields, with_fields
from multistride.cli.help import Verb
from multistride.errors import UsageError


class Way(BaseModel):
    """A model with a field of every kind that options are made of."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    size: int | Literal["auto"] = Field(1, description="Tokens per step.")
    mode: Literal["fast", "exact"] = Field("fast", json_schema_extra={"panel": "Decoding"})
    threshold: float | None = Field(None, ge=0, le=1)
    banned: tuple[str, ...] = Field((), json_schema_extra={"option": "--ban"})
    tokens: tuple[int, ...] = ()
    chat: bool = False
    most: int | None = Field(None, json_schema_extra={"option": "--max-tokens", "old": ["--max"]})
    file: Path | None = None
    inner: int = 0


def verb(annotation, received):
    """A command line of one verb that notes what it receives."""
    app = typer.Typer(rich_markup_mode=None)

    def run(way, name: str = "x") -> None:
        received.append((way, name))

    run.__annotations__["way"] = annotation
    app.command(cls=Verb)(with_fields(run))
    return lambda *line: CliRunner().invoke(app, line, catch_exceptions=False)


@pytest.fixture
def received():
    return []


def test_what_was_not_given_is_not_set(received):
    # Guards: an option given at its default that passes for one left out, and the reverse.
    run = verb(Annotated[Way, Fields(without=("inner",))], received)
    run("--threshold", "0.5", "--mode", "fast", "--ban", "a", "--ban", "b", "--tokens", "3")
    [(way, name)] = received
    assert way == Way(threshold=0.5, banned=("a", "b"), tokens=(3,))
    assert way.model_fields_set == {"threshold", "mode", "banned", "tokens"}
    assert name == "x"


def test_values_have_the_types_of_the_model(received):
    run = verb(Annotated[Way, Fields()], received)
    run("--size", "4", "--chat", "--file", "a/b", "--name", "y", "--inner", "2")
    run("--size", "auto")
    assert [way for way, _ in received] == [
        Way(size=4, chat=True, file=Path("a/b"), inner=2),
        Way(size="auto"),
    ]
    assert received[0][1] == "y"


def test_several_values_give_every_combination_in_order(received):
    run = verb(
        Annotated[
            tuple[Way, ...],
            Fields(only=("size", "mode", "chat"), several=("size", "mode"), defaults={"size": "2"}),
        ],
        received,
    )
    run("--size", "1, 4,1", "--mode", "fast,exact", "--chat")
    run()
    assert [(way.size, way.mode, way.chat) for way in received[0][0]] == [
        (1, "fast", True),
        (1, "exact", True),
        (4, "fast", True),
        (4, "exact", True),
    ]
    assert received[1][0] == (Way(size=2),)


def test_several_values_of_one_model_are_a_tuple(received):
    run = verb(
        Annotated[Way, Fields(only=("banned", "tokens"), several=("banned", "tokens"))], received
    )
    run("--ban", "a, b,a", "--tokens", "3,4")
    assert received[0][0] == Way(banned=("a", "b"), tokens=(3, 4))


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (["--size", "four"], r"--size takes a whole number or auto \(given: 'four'\)"),
        (["--mode", "slow"], r"--mode: Input should be 'fast' or 'exact' \(given: 'slow'\)"),
        (["--threshold", "2"], r"--threshold: .* less than or equal to 1 \(given: 2.0\)"),
        (["--max", "3", "--max-tokens", "4"], "--max is an old spelling of --max-tokens: give one"),
    ],
)
def test_bad_values_name_the_option(received, line, said):
    run = verb(Annotated[Way, Fields()], received)
    with pytest.raises(UsageError, match=said):
        run(*line)


def test_old_spellings_work_and_say_so(received, caplog):
    run = verb(Annotated[Way, Fields()], received)
    with caplog.at_level("WARNING", "multistride"):
        run("--max", "3")
    assert received[0][0] == Way(most=3)
    assert "--max is now --max-tokens" in caplog.text


def test_help_has_panels_defaults_and_no_old_spellings(received):
    run = verb(Annotated[Way, Fields(without=("inner",))], received)
    page = run("--help").output
    assert "--ban <text>" in page
    assert "--mode <fast|exact>" in page
    assert "[default: 1]" in page
    assert "--max " not in page
    assert "--inner" not in page
    assert page.index("Decoding:") < page.index("--mode")
