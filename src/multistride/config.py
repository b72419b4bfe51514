"""Reading configuration: YAML files, `--set a.b=c`, and one line for whatever is wrong with
them.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ValidationError

from multistride.errors import UsageError

Model = TypeVar("Model", bound=BaseModel)


class _UniqueKeys(yaml.SafeLoader):
    """YAML in which a key that stands twice is an error; the standard leaves the choice to the
    reader.
    """

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[Hashable] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, Hashable):
                continue
            if key in seen:
                reason = f"the key {key!r} stands twice"
                raise yaml.constructor.ConstructorError(None, None, reason, key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)


def read_config(path: Path | str, kind: type[Model], settings: Sequence[str] = ()) -> Model:
    """Read a YAML file as `kind`, after applying `settings` ("a.b=value", the value in YAML).

    Raises `UsageError` naming the key, what was given and what is allowed.
    """
    try:
        tree = yaml.load(Path(path).read_text(encoding="utf-8"), _UniqueKeys)
    except OSError as error:
        raise UsageError(f"cannot read the configuration {path}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(tree, dict):
        raise UsageError(f"{path} holds no settings: write one `key: value` a line")
    for setting in settings:
        _apply(tree, setting)
    return validate(kind, tree, str(path))


def validate(kind: type[Model], tree: dict[str, Any], where: str) -> Model:
    """`tree` as `kind`. Raises `UsageError` with the first problem in one line."""
    try:
        return kind.model_validate(tree)
    except ValidationError as error:
        raise UsageError(f"{where}: {first_problem(error, kind)}") from error


def first_problem(error: ValidationError, kind: type[BaseModel] | None = None) -> str:
    """The first problem of a pydantic error as one line: key, what is wrong, what was given, what
    is allowed.
    """
    problem = error.errors(include_url=False)[0]
    key = ".".join(str(part) for part in problem["loc"]) or "the whole"
    if problem["type"] == "extra_forbidden":
        allowed = _fields_beside(kind, problem["loc"])
        return f"unknown key {key!r}" + (f"; known here: {', '.join(allowed)}" if allowed else "")
    given = problem["input"]
    shown = (
        "" if isinstance(given, dict) or problem["type"] == "missing" else f" (given: {given!r})"
    )
    return f"{key}: {problem['msg'].removeprefix('Value error, ')}{shown}"


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
        tree[parts[-1]] = yaml.load(text, _UniqueKeys)
    except yaml.YAMLError as error:
        raise UsageError(f"--set {setting}: the value is not YAML") from error
