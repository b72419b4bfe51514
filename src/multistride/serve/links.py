"""Rounds in a thread of this process, and the way there and back.

`apart.py` is the other place for them: a process of their own.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from typing import Any

from multistride.serve.orders import PATIENCE, Mail, Order, Report
from multistride.serve.rounds import Rounds

logger = logging.getLogger(__name__)


class ThreadLink:
    """The `Link` to rounds in a thread."""

    def __init__(self, rounds: Callable[[Mail], Rounds], name: str) -> None:
        self._mail = _Mail()
        self.rounds = rounds(self._mail)
        self._name = name
        self._thread = threading.Thread(target=self._run, name=f"decode {name}", daemon=True)
        self._lost: Callable[[], None] = lambda: None

    async def start(self, received: Callable[[Report], None], lost: Callable[[], None]) -> None:
        """Start the thread."""
        self._lost = lost
        self._mail.to(asyncio.get_running_loop(), received)
        self._thread.start()

    def send(self, order: Order) -> None:
        """Hand an order to the thread."""
        self._mail.put(order)

    def stop(self) -> None:
        """End the thread after its present pass."""
        self._mail.put(None)
        if self._thread.ident is not None:
            self._thread.join(PATIENCE)

    def _run(self) -> None:
        """Decode until the end; should this ever fail, say so."""
        try:
            self.rounds.run()
        except Exception:
            logger.exception("decoding %s ended by a fault of the server", self._name)
            self._mail.on_loop(self._lost)


class _Mail:
    """The thread's end of the link."""

    def __init__(self) -> None:
        self._orders: list[Order] = []
        self._ended = False
        self._changed = threading.Condition()

    def to(self, loop: asyncio.AbstractEventLoop, received: Callable[[Report], None]) -> None:
        """Send reports to a function on a loop."""
        self._loop, self._received = loop, received

    def put(self, order: Order | None) -> None:
        """Add an order; None ends them."""
        with self._changed:
            if order is None:
                self._ended = True
            else:
                self._orders.append(order)
            self._changed.notify()

    def orders(self, wait: bool) -> list[Order] | None:
        """Return the orders that have come, at least one if told to `wait`; None at the end."""
        with self._changed:
            while wait and not (self._orders or self._ended):
                self._changed.wait()
            orders, self._orders = self._orders, []
            return None if self._ended else orders

    def send(self, report: Report) -> None:
        """Report to the event loop."""
        self.on_loop(self._received, report)

    def on_loop(self, call: Callable[..., None], *values: Any) -> None:
        """Call a function on the event loop."""
        try:
            self._loop.call_soon_threadsafe(call, *values)
        except RuntimeError:  # the loop is closed: nobody waits for an answer
            self.put(None)
