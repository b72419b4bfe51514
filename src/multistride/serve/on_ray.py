"""Replicas as actors of a Ray cluster: `serve --ray`. Imported only there (extra [ray]).

Each actor is the whole server, at the same port of its machine; several on one machine share it.
Ray places them, says when one is gone, and another is started. It passes on no requests: between
machines stands the load balancer that is there anyway, and asks each for `/ready`.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import threading
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError

from multistride.cluster.pool import connected
from multistride.errors import UsageError, UserError
from multistride.serve.metrics import DIRECTORY
from multistride.serve.replicas import Replica, Site, run, supervise
from multistride.serve.server import Server, bound, shown


class _Actor:
    """A server in a process of the cluster."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._server: Server | None = None
        self._started, self._drained = threading.Event(), threading.Event()

    def run(self) -> None:
        """Serve until `drain`."""

        def made(server: Server) -> None:
            self._server = server
            if self._drained.is_set():  # while the models were opened
                server.handle_exit(0, None)

        Path(os.environ[DIRECTORY]).mkdir(parents=True, exist_ok=True)
        run(self._site, self._started.set, made)

    def started(self, seconds: float) -> str | None:
        """Return the address of the machine once it serves there; None after some seconds."""
        up = self._started.wait(seconds)
        return str(ray.util.get_node_ip_address()) if up else None

    def drain(self) -> None:
        """Take no more requests; `run` returns when the others are done."""
        self._drained.set()
        if self._server is not None:
            self._server.handle_exit(0, None)


def serve(site: Site, names: str, count: int, address: str) -> None:
    """Serve models with `count` actors until a signal.

    Raises `UserError` if it cannot be, `UsageError` for more actors than there is room for.
    """
    with (
        contextlib.closing(bound(site.host, site.port, shared=True, backlog=0)) as kept,
        connected(address),
    ):
        port = kept.getsockname()[1]
        placed, threads = site.at(port), site.threads
        room = int(ray.cluster_resources().get("CPU", 0) // threads)
        if count > room:
            raise UsageError(
                f"{count} replicas with {threads} threads were asked for, and the cluster has room "
                f"for {room}: lower --replicas or --threads"
            )
        directory = f"{tempfile.gettempdir()}/multistride-metrics-{os.getpid()}-{port}"
        actor = ray.remote(
            num_cpus=threads,
            max_concurrency=3,
            scheduling_strategy="SPREAD",
            runtime_env={"env_vars": {DIRECTORY: directory}},
        )(_Actor)
        machines: set[str] = set()
        try:
            supervise(
                lambda: _OnRay(actor.remote(placed), machines),
                count,
                lambda: (
                    f"serving {names} by {count} replicas on Ray ({', '.join(sorted(machines))}) "
                    f"on {shown(kept)}"
                ),
            )
        finally:
            shutil.rmtree(directory, ignore_errors=True)


class _OnRay(Replica):
    def __init__(self, actor: Any, machines: set[str]) -> None:
        self._actor, self._machines = actor, machines
        self._run = actor.run.remote()
        self._started: Any = None
        self._error: Exception | None = None

    def ready(self, seconds: float) -> bool:
        if (reason := self.ended()) is not None:
            raise self._error or UserError(f"a replica ended before it served ({reason})")
        if self._started is None:
            self._started = self._actor.started.remote(seconds)
        done, _ = ray.wait([self._started, self._run], timeout=seconds)
        if self._started not in done:
            return False
        try:
            machine = ray.get(self._started)
        except RayError:
            return False  # `ended` says more
        self._started = None
        if machine is not None:
            self._machines.add(machine)
        return machine is not None

    def ended(self) -> str | None:
        done, _ = ray.wait([self._run], timeout=0)
        if not done:
            return None
        try:
            ray.get(self._run)
        except RayTaskError as error:
            ours = isinstance(error.cause, UserError)
            self._error = error.cause if ours else error
            return str(error.cause) if ours else f"{type(error.cause).__name__}: {error.cause}"
        except RayError as error:
            return type(error).__name__
        return "told to stop"

    def drain(self) -> None:
        self._actor.drain.remote()

    def kill(self) -> None:
        with contextlib.suppress(RayError):
            ray.kill(self._actor)
