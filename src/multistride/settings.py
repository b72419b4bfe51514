"""The base of all settings. Imports nothing of ours: every other file may use it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, get_args

from pydantic import BaseModel, ConfigDict, ValidationInfo, field_validator


class Settings(BaseModel):
    """The base of all settings: frozen, no unknown keys, no infinities, no switches for numbers.

    To Python `true` is the number 1, so `log_every: true` would say "every update".
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _no_switch_for_a_number(cls, value: Any, info: ValidationInfo) -> Any:
        """Refuse true and false, also inside of lists and objects, where a number belongs."""
        if _holds_switch(value):
            kinds = set(_kinds(cls.model_fields[info.field_name or ""].annotation))
            if kinds & {int, float} and not any(kind is bool or _is_model(kind) for kind in kinds):
                raise ValueError("a number belongs here; true and false are none")
        return value


def _holds_switch(value: Any) -> bool:
    if isinstance(value, dict):
        return _holds_switch([*value, *value.values()])
    return isinstance(value, bool) or (
        isinstance(value, list | tuple) and any(map(_holds_switch, value))
    )


def _kinds(annotation: Any) -> Iterator[Any]:
    """Yield the types that an annotation is made of."""
    yield annotation
    for part in get_args(annotation):
        yield from _kinds(part)


def _is_model(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)
