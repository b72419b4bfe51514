"""The verb that serves models over HTTP: `serve`."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from pydantic import BaseModel, ConfigDict, Field

from multistride.cli.fields import Fields
from multistride.cli.opening import open_model
from multistride.cli.options import Machine, group_size_or_auto, model_directory
from multistride.decode.options import DecodeOptions
from multistride.errors import MissingExtraError, UsageError

if TYPE_CHECKING:
    from multistride.serve.server import Server

logger = logging.getLogger(__name__)


class Serving(BaseModel):
    """The address and the limits of a server."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    host: str = Field(
        "127.0.0.1",
        description="Address to listen on; 0.0.0.0: all addresses of this machine.",
        json_schema_extra={"panel": "Server"},
    )
    port: int = Field(
        8000,
        ge=0,
        le=65535,
        description="Port to listen on; 0 takes a free one.",
        json_schema_extra={"panel": "Server"},
    )
    replicas: int = Field(
        1,
        ge=1,
        description="Number of server processes behind the port, each with its own models and "
        "threads; with --ray, at most one per --threads cores of the cluster.",
        json_schema_extra={"panel": "Server"},
    )
    ray: str | None = Field(
        None,
        description="Run the replicas on Ray (extra [ray]). Without a value or with local: on "
        "this machine. auto or HOST:PORT: on the machines of the Ray cluster that this one belongs "
        "to, all at the same port.",
        json_schema_extra={"panel": "Server"},
    )
    max_batch_tokens: int = Field(
        512,
        ge=1,
        description="Maximum number of tokens proposed per round: texts x group size.",
        json_schema_extra={"panel": "Limits"},
    )
    max_waiting: int = Field(
        2048,
        ge=1,
        description="Maximum number of waiting requests; any further one gets status 429.",
        json_schema_extra={"panel": "Limits"},
    )
    max_body: int = Field(
        1 << 20,
        ge=1024,
        description="Maximum size of a request body in bytes.",
        json_schema_extra={"panel": "Limits"},
    )
    api_key: str | None = Field(
        None,
        description="Require this key from every client (Authorization: Bearer KEY). Prefer the "
        "environment variable MULTISTRIDE_API_KEY: options are visible in the process list.",
        json_schema_extra={"panel": "Server"},
    )


def serve(
    *,
    model: Annotated[
        list[str] | None,
        typer.Option(
            help="Model directory, or name of a model that ships; NAME=DIRECTORY serves it under "
            "another name. Repeatable; requests that name no model get the first. Default: "
            "English to German.",
            rich_help_panel="Input",
        ),
    ] = None,
    serving: Annotated[Serving, Fields()],
    group_size: Annotated[
        str,
        typer.Option(
            help="Tokens per step of requests that set none; auto chooses by the current load.",
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
    _check_installed(serving)
    key = _key(serving)
    size, names = group_size_or_auto(group_size), _named(model or [])
    shares = serving.replicas if serving.ray is None else 1
    if machine.threads is None:  # one core is left to answer while models compute
        threads = max(1, ((os.cpu_count() or 1) - 1) // shares)
        machine = machine.model_copy(update={"threads": threads})
    site = Site(names, machine, serving, (size, decoding.mode), key)
    site.run(serving.replicas, serving.ray)


def _key(serving: Serving) -> str | None:
    """Return the key that clients must send; None for none.

    Raises `UsageError` for one that no client can send: an unset variable must not open a server.
    """
    given, name = serving.api_key, "--api-key"
    if given is None:
        given, name = os.environ.get("MULTISTRIDE_API_KEY"), "MULTISTRIDE_API_KEY"
    if given is not None and (not given or given != given.strip()):
        kind = "begins or ends with a blank" if given.strip() else "is empty"
        raise UsageError(f"{name} {kind}, so no client can send it: give another, or none")
    return given


@dataclass(frozen=True)
class Site:
    """The models of a server, and all that it is told; sent to replicas, who open them."""

    models: dict[str, Path | None]
    machine: Machine
    serving: Serving
    defaults: tuple[Any, Any]
    key: str | None
    apart: bool = True
    """True if models may have processes of their own."""

    @property
    def host(self) -> str:
        """Return the address to listen on."""
        return self.serving.host

    @property
    def port(self) -> int:
        """Return the port to listen on."""
        return self.serving.port

    @property
    def threads(self) -> int:
        """Return the threads of one replica."""
        return self.machine.threads or 1

    def at(self, port: int) -> Site:
        """Return the same at another port."""
        return replace(self, serving=self.serving.model_copy(update={"port": port}))

    def server(self, started_with: Callable[[], None] = lambda: None) -> Server:
        """Open the models and return the server."""
        from multistride.serve.apart import FORKS
        from multistride.serve.app import Limits, application
        from multistride.serve.opening import opened, opened_apart
        from multistride.serve.orders import Capacity
        from multistride.serve.served import Defaults
        from multistride.serve.server import Server
        from multistride.shipped import directory

        capacity = Capacity(self.serving.max_batch_tokens, self.serving.max_waiting)
        defaults = Defaults(*self.defaults)
        if FORKS and self.apart:
            places = {name: directory(path) for name, path in self.models.items()}
            served = opened_apart(places, partial(open_model, self.machine), defaults, capacity)
        else:
            models = {name: open_model(self.machine, path) for name, path in self.models.items()}
            served = opened(models, defaults, capacity)
        limits = Limits(self.serving.max_body, api_key=self.key)
        return Server(application(served, limits), served.drain, started_with, served.failed)

    def run(self, replicas: int, ray: str | None) -> None:
        """Serve until a signal."""
        from multistride.cli.console import log_to_stderr
        from multistride.serve import processes
        from multistride.serve.server import bound, serve, shown

        bound(self.host, self.port).close()  # before models take their time to load
        names = ", ".join(self.models)
        if ray is not None:
            from multistride.serve import on_ray

            on_ray.serve(replace(self, apart=False), names, replicas, ray)
        elif replicas > 1:
            level = logging.getLogger("multistride").level
            processes.serve(self, names, replicas, partial(log_to_stderr, level))
        else:
            server = self.server()
            listening = bound(self.host, self.port)
            logger.info(f"serving {names} on {shown(listening)}")
            serve(server, listening)


def _check_installed(serving: Serving) -> None:
    """Raise `MissingExtraError` without what `serve` needs."""
    extra = "serve"
    try:
        from multistride.serve import app, server  # noqa: F401

        if serving.ray is not None:
            extra = "ray"
            from multistride.serve import on_ray  # noqa: F401
    except ImportError as error:
        raise MissingExtraError(
            f"serve needs {error.name}, which is not installed: pip install 'multistride[{extra}]'"
        ) from error


def _named(models: list[str]) -> dict[str, Path | None]:
    """Return the directory of every model by the name it is served under."""
    from multistride.shipped import DEFAULT

    if not models:
        return {DEFAULT.name: None}
    found: dict[str, Path | None] = {}
    for text in models:
        name, equals, place = text.partition("=")
        if not equals or Path(text).is_dir():  # a directory may have "=" in its name
            path = Path(text)
            places = Path(os.path.abspath(path)).parts  # `best` and `last` are links, by their name
            name = places[-2 if places[-1] in ("best", "last") else -1]
        else:
            path = Path(place)
        if not name or name in found:
            raise UsageError(
                f"--model {text}: the name {name!r} is empty or taken: write NAME=DIRECTORY"
            )
        found[name] = model_directory(path)
    return found
