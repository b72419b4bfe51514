"""The verb that serves models over HTTP: `serve`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import BaseModel, ConfigDict, Field

from multistride.cli.fields import Fields
from multistride.cli.opening import open_model
from multistride.cli.options import Machine, group_size_or_auto
from multistride.decode.options import DecodeOptions
from multistride.errors import MissingExtraError, UsageError


class Serving(BaseModel):
    """The address and the limits of a server."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    host: str = Field(
        "127.0.0.1",
        description="Address to listen on; 0.0.0.0 for all of this machine.",
        json_schema_extra={"panel": "Server"},
    )
    port: int = Field(
        8000,
        ge=0,
        le=65535,
        description="Port to listen on; 0 takes a free one.",
        json_schema_extra={"panel": "Server"},
    )
    max_batch_tokens: int = Field(
        512,
        ge=1,
        description="Most tokens that one round of passes proposes: texts x group size.",
        json_schema_extra={"panel": "Limits"},
    )
    max_waiting: int = Field(
        2048,
        ge=1,
        description="Most requests that wait; more are answered with 429.",
        json_schema_extra={"panel": "Limits"},
    )
    max_body: int = Field(
        1 << 20,
        ge=1024,
        description="Largest body of a request in bytes.",
        json_schema_extra={"panel": "Limits"},
    )
    api_key: str | None = Field(
        None,
        description="Ask this key of every client (Authorization: Bearer KEY). Better given as the "
        "environment variable MULTISTRIDE_API_KEY, which no list of processes shows.",
        json_schema_extra={"panel": "Server"},
    )


def serve(
    *,
    model: Annotated[
        list[str] | None,
        typer.Option(
            help="Directory or name of a model; NAME=DIRECTORY gives it another name. Repeatable; "
            "the first is the default. Without: the model that ships.",
            rich_help_panel="Input",
        ),
    ] = None,
    serving: Annotated[Serving, Fields()],
    group_size: Annotated[
        str,
        typer.Option(
            help="Tokens per step of requests that do not say; auto: chosen at the present load.",
            metavar="<N|auto>",
            rich_help_panel="Decoding",
        ),
    ] = "auto",
    decoding: Annotated[DecodeOptions, Fields(only=("mode",))],
    machine: Annotated[Machine, Fields()],
) -> None:
    """Serve models over HTTP: OpenAI's and LibreTranslate's routes, and a page at /.

    Requests share batches; SIGTERM lets running ones finish. Without --threads one core stays free
    for the network.

    Example: multistride serve --group-size 4

    Example: multistride serve --model english-german --model chat=RUN/best --port 9000
    """
    run = _server()
    size, names = group_size_or_auto(group_size), _named(model or [])
    key = serving.api_key or os.environ.get("MULTISTRIDE_API_KEY") or None
    if machine.threads is None:  # one core is left to answer while models compute
        machine = machine.model_copy(update={"threads": max(1, (os.cpu_count() or 1) - 1)})
    run.bound(serving.host, serving.port).close()  # before models take their time to load
    models = {name: open_model(machine, path) for name, path in names.items()}
    capacity = run.Capacity(serving.max_batch_tokens, serving.max_waiting)
    served = run.opened(models, run.Defaults(size, decoding.mode), capacity)
    run.serve(served, serving.host, serving.port, run.Limits(serving.max_body, api_key=key))


def _server() -> Any:
    """Return the module that serves. Raises `MissingExtraError` without the extra."""
    try:
        from multistride.serve import server
    except ImportError as error:
        raise MissingExtraError(
            f"serve needs {error.name}, which is not installed: pip install 'multistride[serve]'"
        ) from error
    return server


def _named(models: list[str]) -> dict[str, Path | None]:
    """Return the directory of every model by the name it is served under."""
    from multistride.shipped import DEFAULT

    if not models:
        return {DEFAULT.name: None}
    found: dict[str, Path | None] = {}
    for text in models:
        name, equals, place = text.partition("=")
        path = Path(place if equals else text)
        if not equals:
            last = path.resolve().name
            name = path.resolve().parent.name if last in ("best", "last") else last
        if not name or name in found:
            raise UsageError(
                f"--model {text}: the name {name!r} is empty or taken: write NAME=DIRECTORY"
            )
        found[name] = path
    return found
