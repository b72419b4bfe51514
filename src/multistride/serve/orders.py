"""Messages between the event loop and the rounds of a model.

They may be two threads of a process or two processes (`links.py`), so all of this can be pickled.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from multistride.decode.choosing.cost import StepCosts
from multistride.decode.ending import Ending
from multistride.decode.hypothesis import Group
from multistride.decode.options import Mode
from multistride.model.config import Layout

PATIENCE = 10.0
"""Seconds that the rounds have for their present pass when they are told to stop."""

Choices = tuple[tuple[str, Any], ...]
"""Names and values of decoding options, sorted: requests with the same choices share a plan."""


@dataclass(frozen=True)
class Capacity:
    """`batch_tokens`: most tokens proposed in all passes of one round; `waiting`: most requests
    that wait.
    """

    batch_tokens: int = 512
    waiting: int = 2048


class Work(NamedTuple):
    """One text to decode: source or prompt tokens, choices, and a limit and a seed of its own.

    `choices` hold neither of these, so that requests which differ in nothing else are decoded
    together.
    """

    key: int
    tokens: tuple[int, ...]
    choices: Choices
    limit: int
    seed: int = 0
    name: str = ""


class Cancel(NamedTuple):
    """The request that nobody waits for any more."""

    key: int


Order = Work | Cancel


class Written(NamedTuple):
    """A group that was written for a request; `ending` says why the text is over, else None."""

    key: int
    group: Group
    ending: Ending | None

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle plain values, which takes a third of the time of a dataclass."""
        group = self.group
        values = group.step, group.group_size, group.tokens, group.log_probabilities
        return _written, (self.key, self.ending, *values, group.milliseconds, group.reason)


def _written(key: int, ending: Ending | None, *values: Any) -> Written:
    return Written(key, Group(*values), ending)


class Report(NamedTuple):
    """The result of one pass, or requests that have ended otherwise."""

    running: int
    """Texts that go on."""
    overhead: float = 0.0
    """Milliseconds of a round beside its steps, for each text (`Rounds.overhead`)."""
    mode: Mode = "fast"
    seconds: float = 0.0
    """Since the batch's last pass."""
    written: tuple[Written, ...] = ()
    failed: tuple[int, ...] = ()
    """Requests whose decoding raised, alone as well."""
    gone: tuple[int, ...] = ()
    """Requests that were cancelled and hold no row any more."""


class Opened(NamedTuple):
    """Facts of an engine once it is open: its name, and the costs of its steps."""

    engine: str
    costs: dict[Layout, StepCosts]


class Link(Protocol):
    """The way from the event loop to the rounds of one model, and back."""

    async def start(self, received: Callable[[Report], None], lost: Callable[[], None]) -> None:
        """Start the rounds. Both functions are called on the event loop: `lost` if they end."""

    def send(self, order: Order) -> None:
        """Hand an order to the rounds."""

    def stop(self) -> None:
        """End the rounds after their present pass."""


class Mail(Protocol):
    """The link from the side of the rounds: orders come in, reports go out."""

    def orders(self, wait: bool) -> list[Order] | None:
        """Return the orders that have come, at least one if told to `wait`; None at the end."""

    def send(self, report: Report) -> None:
        """Report to the event loop."""
