"""Conversations as the one text that a chat model was trained to read."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from importlib import import_module
from typing import Any

from multistride.errors import DataError, MissingExtraError

Message = Mapping[str, str]
"""One turn of a conversation: its `role` (system, user, assistant) and its `content`."""


def rendered(template: str, messages: Sequence[Message], symbols: Mapping[str, str]) -> str:
    """Return a conversation as the template of a tokenizer writes it, up to where the model's
    answer begins: the text that transformers makes of it, character by character.

    `symbols` are names that templates use, such as `bos_token`. The template is run in jinja2's
    sandbox: it comes with a model and may be anybody's. Raises `DataError` for a template that
    refuses or cannot be run, `MissingExtraError` without jinja2.
    """
    try:
        import_module("jinja2.sandbox")
    except ImportError as error:
        raise MissingExtraError(
            "chat templates need jinja2: pip install 'multistride[chat]'"
        ) from error
    conversation = [dict(message) for message in messages]
    try:
        text = _compiled(template).render(
            messages=conversation,
            tools=None,
            documents=None,
            add_generation_prompt=True,
            **symbols,
        )
    except DataError:
        raise
    except Exception as error:  # whatever a stranger's template may raise
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(
            f"the chat template of this model cannot be run: {reason}; generate without chat"
        ) from error
    return str(text)


@lru_cache(maxsize=8)
def _compiled(template: str) -> Any:
    """Return a template with the names, filters and tags that transformers gives to all."""
    jinja2: Any = import_module("jinja2")
    sandbox, ext = import_module("jinja2.sandbox"), import_module("jinja2.ext")

    class Generation(ext.Extension):  # type: ignore[misc,name-defined]
        """`{% generation %} ... {% endgeneration %}`: what a model is trained on, marked."""

        tags = {"generation"}  # noqa: RUF012  # jinja2 declares it so

        def parse(self, parser: Any) -> Any:
            line = next(parser.stream).lineno
            body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
            # A block of its own: names that are set within it are not seen behind it.
            call = self.call_method("unchanged")
            return jinja2.nodes.CallBlock(call, [], [], body).set_lineno(line)

        def unchanged(self, caller: Any) -> Any:
            return caller()

    environment = sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, ext.loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    environment.globals.update(
        raise_exception=_refuse,
        # The time of this place, as transformers has it: models are trained with such dates.
        strftime_now=lambda form: datetime.now().strftime(form),
    )
    return environment.from_string(template)


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Return JSON as it is; the filter of jinja2 escapes what HTML would read otherwise."""
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )


def _refuse(reason: str) -> None:
    """Raise `DataError`: what templates call where a conversation does not suit them."""
    raise DataError(f"the chat template of this model refuses the conversation: {reason}")
