"""Read configuration: YAML files, `--set a.b=c`, and one line for whatever is wrong with them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError

from multistride.errors import DataError, UsageError
from multistride.untrusted import MOST_SETTINGS, parse_yaml, read_bytes

Model = TypeVar("Model", bound=BaseModel)


def read_config(path: Path | str, kind: type[Model], settings: Sequence[str] = ()) -> Model:
    """Read a YAML file as `kind`, after applying `settings` ("a.b=value", the value in YAML).

    Raises `UsageError` naming the key, what was given and what is allowed.
    """
    try:
        text = read_bytes(path, MOST_SETTINGS, "give a file of settings, as in configs/")
        tree = parse_yaml(text)
    except DataError as error:
        raise UsageError(str(error)) from error
    except ValueError as error:
        raise UsageError(f"{path} is not YAML: {error}") from error
    if not isinstance(tree, dict):
        raise UsageError(f"{path} holds no settings: write one `key: value` a line")
    for setting in settings:
        _apply(tree, setting)
    return validate(kind, tree, str(path))


def validate(kind: type[Model], tree: dict[str, Any], where: str) -> Model:
    """Return `tree` as `kind`. Raises `UsageError` with the first problem in one line."""
    try:
        return kind.model_validate(tree)
    except ValidationError as error:
        raise UsageError(f"{where}: {first_problem(error, kind)}") from error


def first_problem(error: ValidationError, kind: type[BaseModel] | None = None) -> str:
    """Return the first problem of a pydantic error in one line: key, fault, value, what is
    allowed.
    """
    problem = error.errors(include_url=False)[0]
    key = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        allowed = _fields_beside(kind, problem["loc"])
        return f"unknown key {key!r}" + (f"; known here: {', '.join(allowed)}" if allowed else "")
    given = problem["input"]
    shown = (
        "" if isinstance(given, dict) or problem["type"] == "missing" else f" (given: {given!r})"
    )
    message = problem["msg"].removeprefix("Value error, ") + shown
    return f"{key}: {message}" if key else message


def _fields_beside(kind: type[BaseModel] | None, location: tuple[int | str, ...]) -> list[str]:
    for part in location[:-1]:
        field = kind.model_fields.get(str(part)) if kind else None
        annotation = field.annotation if field else None
        candidates = (annotation, *get_args(annotation))
        kind = next(
            (each for each in candidates if isinstance(each, type) and issubclass(each, BaseModel)),
            None,
        )
    return sorted(kind.model_fields) if kind else []


def _apply(tree: dict[str, Any], setting: str) -> None:
    key, equals, text = setting.partition("=")
    parts = key.split(".")
    if not equals or not all(parts):
        raise UsageError(
            f"--set takes key=value, for example training.updates=100; {setting!r} was given"
        )
    for part in parts[:-1]:
        if tree.get(part) is None:
            tree[part] = {}
        branch = tree[part]
        if not isinstance(branch, dict):
            raise UsageError(f"--set {setting}: {part!r} is a value, not a section")
        tree = branch
    try:
        tree[parts[-1]] = parse_yaml(text)
    except ValueError as error:
        raise UsageError(f"--set {setting}: the value is not YAML ({error})") from error
