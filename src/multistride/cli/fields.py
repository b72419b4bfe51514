"""Command-line options made from the fields of a pydantic model, each declared once: there.

    @with_fields
    def translate(decoding: Annotated[DecodeOptions, Fields(without=("limit_ratio",))], ...):

`decoding` becomes one option for every field: its name, type, default and description are those
of the field, and `json_schema_extra` may give a `panel` of the help, another spelling
(`option="--ban"`) and old spellings that still work (`old=["--max-length"]`). The verb receives one
`DecodeOptions` made of what was really on the command line, so `model_fields_set` names exactly
that: an option given at its default value is not the same as one left out.

`several=("group_size", "mode")` takes comma-separated values for those fields. A parameter
annotated `tuple[DecodeOptions, ...]` receives one model for every combination, in order; a
parameter of one model receives them as a tuple, if the field is one.
"""

from __future__ import annotations

import functools
import inspect
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, Literal, get_args, get_origin

import typer
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from multistride.config import first_problem
from multistride.errors import UsageError

logger = logging.getLogger(__name__)

_OLD = "__old"
"""Ends the parameter name of an old spelling."""


@dataclass(frozen=True)
class Fields:
    """The fields of a model that become options, and what differs from the model in this verb.

    `only` names the fields, else all `without` those named; `several` take comma-separated values;
    `defaults` are the verb's own (they count as given).
    """

    only: tuple[str, ...] = ()
    without: tuple[str, ...] = ()
    several: tuple[str, ...] = ()
    defaults: Mapping[str, Any] = field(default_factory=dict)


def with_fields(verb: Callable[..., None]) -> Callable[..., None]:
    """Return `verb` with one option for every field of the models that its parameters ask for."""
    parameters: list[inspect.Parameter] = []
    groups: list[_Group] = []
    for parameter in inspect.signature(verb, eval_str=True).parameters.values():
        marker = next((m for m in _marks(parameter) if isinstance(m, Fields)), None)
        if marker is None:
            parameters.append(parameter)
            continue
        group = _Group(parameter.name, get_args(parameter.annotation)[0], marker)
        groups.append(group)
        parameters += group.parameters()
    if not groups:
        return verb
    context = inspect.Parameter("command_line", _KEYWORD, annotation=typer.Context)

    @functools.wraps(verb)
    def wrapper(command_line: typer.Context, **values: Any) -> None:
        arguments = dict(values)
        for group in groups:
            given = {name: arguments.pop(name) for name in group.names()}
            arguments[group.name] = group.made(
                {name: value for name, value in given.items() if _is_given(command_line, name)}
            )
        verb(**arguments)

    signature = inspect.Signature([context, *(p.replace(kind=_KEYWORD) for p in parameters)])
    wrapper.__signature__ = signature  # type: ignore[attr-defined]
    wrapper.__annotations__ = {name: p.annotation for name, p in signature.parameters.items()}
    return wrapper


_KEYWORD = inspect.Parameter.KEYWORD_ONLY


def _marks(parameter: inspect.Parameter) -> tuple[Any, ...]:
    annotated = get_origin(parameter.annotation) is Annotated
    return get_args(parameter.annotation)[1:] if annotated else ()


def _is_given(context: typer.Context, name: str) -> bool:
    source = context.get_parameter_source(name)
    return source is not None and source.name != "DEFAULT"


class _Group:
    """The options of one model of one verb."""

    def __init__(self, name: str, annotation: Any, marker: Fields) -> None:
        self.name, self.marker = name, marker
        self.many = get_origin(annotation) is tuple
        self.model: type[BaseModel] = get_args(annotation)[0] if self.many else annotation
        chosen = marker.only or tuple(self.model.model_fields)
        self.fields = {
            name: self.model.model_fields[name] for name in chosen if name not in marker.without
        }

    def names(self) -> list[str]:
        """Return the names of all parameters, old spellings included."""
        old = [name + _OLD for name, info in self.fields.items() if _extra(info).get("old")]
        return [*self.fields, *old]

    def parameters(self) -> list[inspect.Parameter]:
        """Return one parameter for every field, and a hidden one for its old spellings."""
        parameters: list[inspect.Parameter] = []
        for name, info in self.fields.items():
            kind, default = self._type(name, info), self._default(name, info)
            option = option_of(self.model, name, several=name in self.marker.several)
            parameters.append(_parameter(name, kind, option, default))
            if old := _extra(info).get("old"):
                hidden = typer.Option(*old, hidden=True)
                unset = False if kind is bool else None
                parameters.append(_parameter(name + _OLD, _optional(kind), hidden, unset))
        return parameters

    def made(self, given: dict[str, Any]) -> Any:
        """Return the model (or one for each combination) of what was given.

        Raises `UsageError` in one line that names the option.
        """
        values = {**self.marker.defaults}
        for name, value in given.items():
            if name.endswith(_OLD):
                name, old = name.removesuffix(_OLD), _extra(self.fields[name.removesuffix(_OLD)])
                new = option_name(name, self.fields[name])
                if name in given:
                    raise UsageError(f"{old['old'][0]} is an old spelling of {new}: give one")
                logger.warning(f"note: {old['old'][0]} is now {new}; the old spelling will go")
            values[name] = value
        lists = {
            name: tuple(dict.fromkeys(part.strip() for part in str(values[name]).split(",")))
            for name in self.marker.several
            if name in values
        }
        if not self.many:
            return self._checked({**values, **lists})
        return tuple(
            self._checked({**values, **dict(zip(lists, combination, strict=True))})
            for combination in product(*lists.values())
        )

    def _checked(self, values: dict[str, Any]) -> BaseModel:
        try:
            return self.model.model_validate(values)
        except ValidationError as error:
            raise UsageError(self._problem(error)) from error

    def _problem(self, error: ValidationError) -> str:
        """Return the first problem in one line, by the name of its option."""
        problem = first_problem(error, self.model)
        first = error.errors()[0]
        name, *inner = map(str, first["loc"] or ("",))
        if name not in self.fields:
            return problem
        option = option_name(name, self.fields[name])
        if name in self.marker.several and first["type"] == "int_parsing":
            return f"{option} takes whole numbers such as 1,2,4 (given: {first['input']!r})"
        if inner and (choices := _choices(self.fields[name].annotation)):
            return f"{option} takes a whole number or {choices[0]} (given: {first['input']!r})"
        return option + problem.removeprefix(".".join((name, *inner)))

    def _default(self, name: str, info: FieldInfo) -> Any:
        if name in self.marker.defaults:
            return self.marker.defaults[name]
        if info.is_required():
            return inspect.Parameter.empty
        default = info.get_default(call_default_factory=True)
        if isinstance(default, tuple) and name in self.marker.several:
            return ",".join(map(str, default))
        if isinstance(default, tuple | list) or default is None or default == "":
            return None
        return default if self._type(name, info) in (bool, int, float) else str(default)

    def _type(self, name: str, info: FieldInfo) -> Any:
        """Return the type that typer converts to; the model converts and checks the rest."""
        plain = _plain(info.annotation)
        if name in self.marker.several:
            return str
        if get_origin(plain) in (tuple, list):
            item = get_args(plain)[0]
            return list[item if item in (int, float) else str]  # type: ignore[misc]
        return plain if plain in (bool, int, float, Path) else str


def option_of(model: type[BaseModel], name: str, *, several: bool = False) -> Any:
    """Return the typer option that a field describes; `several` takes comma-separated values."""
    info = model.model_fields[name]
    return typer.Option(
        option_name(name, info),
        help=f"{info.description} Comma-separated." if several else info.description,
        metavar=None if info.annotation is bool else _metavar(info, several),
        rich_help_panel=_extra(info).get("panel"),
        autocompletion=_completion(_choices(info.annotation)),
    )


def option_name(name: str, info: FieldInfo) -> str:
    """Return how the option of a field is spelled on the command line."""
    return str(_extra(info).get("option") or "--" + name.replace("_", "-"))


def _extra(info: FieldInfo) -> dict[str, Any]:
    return info.json_schema_extra if isinstance(info.json_schema_extra, dict) else {}


def _parameter(name: str, kind: Any, option: Any, default: Any) -> inspect.Parameter:
    annotation = kind if default not in (None, inspect.Parameter.empty) else _optional(kind)
    if default is inspect.Parameter.empty:
        annotation = kind
    return inspect.Parameter(
        name, _KEYWORD, default=default, annotation=Annotated[annotation, option]
    )


def _optional(kind: Any) -> Any:
    return kind if kind is bool else kind | None


def _plain(annotation: Any) -> Any:
    """Return an annotation without `None`."""
    kinds = [kind for kind in get_args(annotation) if kind is not NoneType]
    has_none = NoneType in get_args(annotation)
    return kinds[0] if has_none and len(kinds) == 1 else annotation


def _choices(annotation: Any) -> tuple[str, ...]:
    """Return the values that the `Literal`s in an annotation allow."""
    if get_origin(annotation) is Literal:
        return tuple(map(str, get_args(annotation)))
    return tuple(choice for part in get_args(annotation) for choice in _choices(part))


def _metavar(info: FieldInfo, several: bool) -> str | None:
    if several:
        return "<list>"
    if choices := _choices(info.annotation):
        numbers = "N|" if int in get_args(info.annotation) else ""
        return f"<{numbers}{'|'.join(choices)}>"
    plain = _plain(info.annotation)
    plain = get_args(plain)[0] if get_origin(plain) in (tuple, list) else plain
    names = {int: "<int>", float: "<number>", str: "<text>", Path: "<path>"}
    return names.get(plain)


def _completion(choices: tuple[str, ...]) -> Callable[[str], list[str]] | None:
    if not choices:
        return None

    def complete(incomplete: str) -> list[str]:
        return [choice for choice in choices if choice.startswith(incomplete)]

    return complete
