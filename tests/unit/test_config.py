"""Configuration: one line for whatever is wrong, with the key, what was given and what is
allowed."""

from typing import Literal

import pytest
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from multistride.config import read_config, validate
from multistride.data.prepare_pairs import CleaningConfig, PrepareConfig
from multistride.data.prepare_text import TextPrepareConfig
from multistride.decode.options import DecodeOptions
from multistride.distill.config import DistillConfig
from multistride.errors import UsageError
from multistride.evaluate.bench.request import BenchOptions
from multistride.evaluate.request import EvaluationRequest
from multistride.model.config import AdapterConfig, TransformerConfig
from multistride.settings import Settings
from multistride.train.config import GroupsConfig, TrainingConfig

SETTINGS = (
    *(CleaningConfig, PrepareConfig, TextPrepareConfig, DecodeOptions, DistillConfig),
    *(BenchOptions, EvaluationRequest, AdapterConfig, TransformerConfig),
)


class Inner(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    rate: float = Field(0.5, gt=0)
    kind: Literal["one", "two"] = "one"


class Outer(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    count: int = Field(3, ge=1)
    inner: Inner = Inner()
    perhaps: Inner | None = None

    @model_validator(mode="after")
    def _agree(self):
        if self.count == 13:
            raise ValueError("count is 13; choose another")
        return self


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run.yaml"


def read(path, text, *settings):
    path.write_text(text, encoding="utf-8")
    return read_config(path, Outer, settings)


def refusal(path, text, *settings):
    with pytest.raises(UsageError) as caught:
        read(path, text, *settings)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_values_and_defaults(path):
    # Guards: a section that replaces the defaults of its other keys.
    config = read(path, "name: ü\ninner:\n  rate: 2\n")
    assert config == Outer(name="ü", count=3, inner=Inner(rate=2.0, kind="one"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("name: a\ncuont: 3\n", "unknown key 'cuont'; known here: count, inner, name, perhaps"),
        ("name: a\ninner: {rat: 3}\n", "unknown key 'inner.rat'; known here: kind, rate"),
        pytest.param(
            "name: a\nperhaps: {rat: 3}\n",
            "unknown key 'perhaps.rat'; known here: kind, rate",
        ),
        ("name: a\ninner: {rate: 0}\n", "inner.rate: Input should be greater than 0 (given: 0)"),
        (
            "name: a\ninner: {kind: three}\n",
            "inner.kind: Input should be 'one' or 'two' (given: 'three')",
        ),
        ("name: a\ncount: many\n", "(given: 'many')"),
        ('name: a\ncount: "1\\n2"\n', "(given: '1\\n2')"),
        ("count: 3\n", "name: Field required"),
        ("name: a\ncount: 13\n", "count is 13; choose another"),
        ("name: a\ninner: 3\n", "inner: Input should be a valid dictionary"),
        ("", "holds no settings"),
        ("# a comment\n", "holds no settings"),
        ("- name\n", "holds no settings"),
        ("name\n", "holds no settings"),
        ("name: [a\n", "is not YAML"),
        ("name: a\n\tcount: 3\n", "is not YAML"),
        ("name: \x01\n", "is not YAML"),
        ("name: a\nname: b\n", "the key 'name' stands twice"),
        ("inner:\n  rate: 1\n  rate: 2\n", "the key 'rate' stands twice"),
        ("name: !!python/object/apply:os.getcwd []\n", "is not YAML"),
    ],
)
def test_one_line_for_what_is_wrong(path, text, expected):
    # Guards: a page of output, a traceback, or a message without the key, the value or the way out.
    message = refusal(path, text)
    assert expected in message
    assert str(path) in message


def test_files_that_cannot_be_read(path, tmp_path):
    # Guards: a traceback for a mistyped name, a directory or a file that is not text.
    for place in (path, tmp_path):
        with pytest.raises(UsageError, match=r"give a file of settings[^\n]*\Z"):
            read_config(place, Outer)
    path.write_bytes(b"name: \xff\n")
    with pytest.raises(UsageError, match=r"is not YAML[^\n]*\Z"):
        read_config(path, Outer)


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("count=7", {"count": 7}),
        ("name=b", {"name": "b"}),
        ("name=a=b", {"name": "a=b"}),
        ("name='7'", {"name": "7"}),
        ("inner.kind=two", {"inner": Inner(kind="two", rate=4)}),
        ("inner.rate=1e-3", {"inner": Inner(rate=0.001)}),
        ("inner={rate: 9, kind: two}", {"inner": Inner(rate=9, kind="two")}),
        ("perhaps.rate=2", {"perhaps": Inner(rate=2)}),
        ("perhaps=", {"perhaps": None}),
        ("perhaps=null", {"perhaps": None}),
    ],
)
def test_settings_change_one_key(path, setting, expected):
    # Guards: --set that is ignored, replaces a whole section, or takes a number for text.
    assert read(path, "name: a\ninner: {rate: 4}\n", setting) == Outer(
        **{"name": "a", "inner": Inner(rate=4), **expected}
    )


def test_the_last_setting_wins(path):
    # Guards: settings applied in another order than they were given.
    assert read(path, "name: a\n", "count=7", "count=8", "inner.rate=2", "inner.kind=two") == Outer(
        name="a", count=8, inner=Inner(rate=2, kind="two")
    )


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("count", "--set takes key=value, for example training.updates=100; 'count' was given"),
        ("=7", "--set takes key=value"),
        ("", "--set takes key=value"),
        ("inner..rate=7", "--set takes key=value"),
        ("inner.=7", "--set takes key=value"),
        ("name.first=7", "'name' is a value, not a section"),
        ("count=[", "the value is not YAML"),
        ("cuont=7", "unknown key 'cuont'; known here: count, inner, name, perhaps"),
        ("inner.rat=7", "unknown key 'inner.rat'; known here: kind, rate"),
        ("count=0", "count: Input should be greater than or equal to 1 (given: 0)"),
    ],
)
def test_settings_that_are_wrong(path, setting, expected):
    # Guards: a mistyped --set that trains something else for a day.
    assert expected in refusal(path, "name: a\n", setting)


def test_a_setting_in_an_empty_section(path):
    # Guards: a section whose keys are all commented out that refuses --set.
    assert read(path, "name: a\ninner:\n", "inner.rate=2").inner == Inner(rate=2)


def test_validate_names_its_origin():
    # Guards: a message that does not say which of several inputs is wrong.
    assert validate(Inner, {"rate": 2}, "here") == Inner(rate=2)
    with pytest.raises(UsageError, match=r"^there: rate: "):
        validate(Inner, {"rate": -1}, "there")


class Numbers(Settings):
    count: int = 1
    rates: tuple[float, float] = (0.0, 1.0)
    shares: dict[int, float] = Field(default_factory=dict)
    size: int | Literal["auto"] = 1
    perhaps: int | None = None
    switch: bool = False
    either: bool | int = False
    inner: Inner | None = None


@pytest.mark.parametrize(
    "given",
    [
        "count: true",
        "count: no",
        "rates: [false, 0.5]",
        "shares: {1: true}",
        "shares: {true: 1.0}",
        "size: true",
        "perhaps: off",
    ],
)
def test_switches_are_no_numbers(path, given):
    # Guards: `log_every: true` that is read as 1, since to Python a switch is a number.
    path.write_text(given)
    with pytest.raises(UsageError, match="a number belongs here; true and false are none"):
        read_config(path, Numbers)


def test_switches_stay_where_they_belong(path):
    # Guards: the rule above for a field that is a switch, or whose object has some.
    path.write_text("switch: true\neither: true\nperhaps: null\nsize: auto\ninner: {kind: two}\n")
    config = read_config(path, Numbers)
    assert (config.switch, config.either, config.perhaps, config.size) == (True, True, None, "auto")


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (kind, name)
        for kind in (*SETTINGS, TrainingConfig, GroupsConfig)
        for name, field in kind.model_fields.items()
        if field.annotation in (int, float, int | None, float | None)
    ],
)
def test_no_setting_takes_a_switch_for_a_number(kind, name):
    # Guards: a new class of settings that is not made from the common base.
    with pytest.raises(ValidationError) as caught:
        kind.model_validate({name: True})
    found = {problem["loc"]: problem["msg"] for problem in caught.value.errors()}
    assert "a number belongs here" in found[(name,)]
