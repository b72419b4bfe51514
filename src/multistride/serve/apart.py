"""Rounds in a process of their own, and the way there and back.

Decoding is Python between calls of the engine, and so is answering: in one process they wait for
each other's turn with the interpreter, in two they use two cores. The process is a fork, so it
starts at once and shares what both have imported; that is safe on Linux, before this process has
computed anything. Elsewhere rounds run in a thread (`links.py`).

The process opens its model itself: this one knows the configuration and the vocabulary. It ends
when the connection to it does, by `stop` or because this process is gone, however that ended.
Signals that a terminal or a service manager sends to the whole group are this process' affair.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import pickle
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from struct import Struct
from typing import Any, ClassVar, NoReturn

from multistride.data.vocabulary_files import load_vocabulary
from multistride.decode.options import Mode
from multistride.engines.interface import announce
from multistride.errors import UserError
from multistride.generator import Generator
from multistride.model.config import TransformerConfig
from multistride.model.directory import load_config
from multistride.serve.orders import PATIENCE, Capacity, Opened, Order, Report
from multistride.serve.plans import Plans
from multistride.serve.rounds import Rounds
from multistride.text_model import TextModel
from multistride.translator import Translator

logger = logging.getLogger(__name__)

FORKS = sys.platform == "linux"
"""True where rounds can have a process of their own."""

SIZE = Struct("=I")
"""The number of bytes of a message, which stands before it."""

PIECE = 1 << 18
"""Most bytes read at once."""


class Elsewhere:
    """The engine of a model that is opened in another process: what can be known here."""

    precision = ""
    markov = None

    def __init__(self, config: TransformerConfig) -> None:
        self.config = config
        self.name = ""

    def __getattr__(self, name: str) -> NoReturn:
        """Refuse to compute."""
        raise AttributeError(f"{name}: this model is decoded in a process of its own")


def described(directory: Path) -> TextModel:
    """Return the model of a directory without its weights: it encodes texts and checks requests.

    Raises `DataError` if the directory is no model directory.
    """
    config = load_config(directory)
    engine: Any = Elsewhere(config)
    kind = Translator if config.encoder_layers else Generator
    return kind(engine, load_vocabulary(directory), directory)


class ProcessLink:
    """The `Link` to rounds in a process."""

    _ends: ClassVar[list[socket.socket]] = []
    """This process' ends of all links. A child closes them: else no other would see its end."""

    def __init__(
        self, name: str, open_model: Callable[[], TextModel], mode: Mode | None, capacity: Capacity
    ) -> None:
        """Fork. The child opens the model and, given a `mode`, measures what its steps cost."""
        self._name, self._stopped = name, False
        self._end, theirs = socket.socketpair()
        self._ends.append(self._end)
        self.pid = os.fork()
        if self.pid == 0:
            for end in self._ends:
                end.close()
            _live(_Mail(theirs), name, open_model, mode, capacity)
        theirs.close()

    def opened(self) -> Opened:
        """Wait until the model is open. Raises `UserError` if it cannot be."""
        messages = _Messages()
        try:
            while data := self._end.recv(PIECE):
                for message in messages.of(data):
                    if isinstance(message, UserError):
                        raise message
                    assert isinstance(message, Opened)
                    return message
            raise UserError(f"opening model {self._name} failed: its process {self._ended()}")
        except BaseException:
            self.stop(patience=0.0)
            raise

    async def start(self, received: Callable[[Report], None], lost: Callable[[], None]) -> None:
        """Begin to listen."""

        def ended() -> None:
            if not self._stopped:
                self._stopped = True
                logger.error("decoding %s is over: its process %s", self._name, self._ended())
                lost()

        loop = asyncio.get_running_loop()
        self._transport, _ = await loop.create_unix_connection(
            lambda: _Listening(received, ended), sock=self._end
        )

    def send(self, order: Order) -> None:
        """Hand an order to the process."""
        self._transport.write(_packed(order))

    def stop(self, patience: float = PATIENCE) -> None:
        """End the process after its present pass, or kill it when `patience` is over."""
        if self._end in self._ends:
            self._ends.remove(self._end)
        already, self._stopped = self._stopped, True
        with contextlib.suppress(OSError):
            self._end.shutdown(socket.SHUT_RDWR)
        if not already:
            self._ended(patience)

    def _ended(self, patience: float = PATIENCE) -> str:
        """Return how the process ended; it is killed if it does not in time."""
        until = time.monotonic() + patience
        while True:
            try:
                pid, status = os.waitpid(self.pid, os.WNOHANG)
            except ChildProcessError:  # somebody else has waited for it
                return "is gone"
            if pid:
                code = os.waitstatus_to_exitcode(status)
                return (
                    f"ended with exit code {code}" if code >= 0 else f"was killed (signal {-code})"
                )
            if time.monotonic() > until:
                os.kill(self.pid, signal.SIGKILL)
            time.sleep(0.005)


class _Listening(asyncio.Protocol):
    """Takes the reports of a process."""

    def __init__(self, received: Callable[[Report], None], ended: Callable[[], None]) -> None:
        self._messages, self._received, self._ended = _Messages(), received, ended

    def data_received(self, data: bytes) -> None:
        """Hand on the reports that are complete."""
        for report in self._messages.of(data):
            self._received(report)

    def connection_lost(self, exc: Exception | None) -> None:
        """Say that there will be no more."""
        self._ended()


class _Mail:
    """The process' end of the link."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection, self._messages = connection, _Messages()

    def orders(self, wait: bool) -> list[Order] | None:
        """Return the orders that have come, at least one if told to `wait`; None at the end."""
        orders: list[Order] = []
        while True:
            flags = 0 if wait and not orders else socket.MSG_DONTWAIT
            try:
                data = self._connection.recv(PIECE, flags)
            except BlockingIOError:
                return orders
            if not data:
                return None
            orders += self._messages.of(data)

    def send(self, report: Report | Opened | UserError) -> None:
        """Report to the event loop; it always reads, so this never waits long."""
        self._connection.sendall(_packed(report))


class _Messages:
    """Puts messages together from pieces of a stream."""

    def __init__(self) -> None:
        self._held = bytearray()

    def of(self, data: bytes) -> Iterator[Any]:
        """Yield the messages that are complete with this piece."""
        self._held += data
        while len(self._held) >= SIZE.size:
            end = SIZE.size + SIZE.unpack_from(self._held)[0]
            if len(self._held) < end:
                return
            message = bytes(self._held[SIZE.size : end])
            del self._held[:end]
            yield pickle.loads(message)


def _packed(message: Any) -> bytes:
    data = pickle.dumps(message, pickle.HIGHEST_PROTOCOL)
    return SIZE.pack(len(data)) + data


def _warm(model: TextModel) -> None:
    """Write a token with K=1 and with the largest K, so that the first request opens no graphs."""
    for size in {1, max(model.config.group_sizes)}:
        model.decoded([[model.config.end_token]], model.plan(size, max_tokens=1))


def _live(
    mail: _Mail,
    name: str,
    open_model: Callable[[], TextModel],
    mode: Mode | None,
    capacity: Capacity,
) -> NoReturn:
    """Be the process that decodes: from the fork to its end."""
    code = 1
    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        model = open_model()
        plans = Plans(model)
        if mode is not None:
            plans.measure(mode)
        announce(model.engine)
        _warm(model)
        mail.send(Opened(model.engine.name, model.measured.costs))
        Rounds(model.engine, plans, capacity, mail).run()
        code = 0
    except UserError as problem:
        with contextlib.suppress(ConnectionError):
            mail.send(problem)
    except ConnectionError:  # nobody is there to be told
        code = 0
    except BaseException:
        logger.exception("decoding %s ended by a fault of the server", name)
    finally:
        os._exit(code)
