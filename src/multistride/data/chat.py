"""Conversations as the one text that a chat model was trained to read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib import import_module
from typing import Any

from multistride.errors import DataError, MissingExtraError

Message = Mapping[str, str]
"""One turn of a conversation: its `role` (system, user, assistant) and its `content`."""


def rendered(template: str, messages: Sequence[Message], symbols: Mapping[str, str]) -> str:
    """A conversation as the template of a tokenizer writes it, up to where the model's answer
    begins.

    `symbols` are names that templates use, such as `bos_token`. The template is run in jinja2's
    sandbox: it comes with a model and may be anybody's. Raises `DataError` for a template that
    refuses or cannot be run, `MissingExtraError` without jinja2.
    """
    try:
        sandbox: Any = import_module("jinja2.sandbox")
    except ImportError as error:
        raise MissingExtraError(
            "chat templates need jinja2: pip install 'multistride[chat]'"
        ) from error
    environment = sandbox.ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    environment.globals.update(
        raise_exception=_refuse, strftime_now=lambda form: datetime.now(UTC).strftime(form)
    )
    try:
        text = environment.from_string(template).render(
            messages=list(messages), add_generation_prompt=True, **symbols
        )
    except DataError:
        raise
    except Exception as error:  # whatever a stranger's template may raise
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(
            f"the chat template of this model cannot be run: {reason}; leave --chat out"
        ) from error
    return str(text)


def _refuse(reason: str) -> None:
    """What templates call where a conversation does not suit them."""
    raise DataError(f"the chat template of this model refuses the conversation: {reason}")
