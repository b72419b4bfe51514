"""The seam between work and those who do it: items in, each with its result out, in order."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from typing import Protocol, TypeVar

I = TypeVar("I")  # noqa: E741, an item
O = TypeVar("O")  # noqa: E741, its result

Work = Callable[[I], O]
Opening = Callable[[], Work[I, O]]
"""Opens what the work needs (a model) and returns the work. Is pickled where others do it."""


class Spread(Protocol):
    """Does the work on every item."""

    def __call__(
        self, opening: Opening[I, O], items: Iterable[I]
    ) -> Generator[tuple[I, O], None, None]:
        """Yield every item with its result, in the order of the items."""


class Workers(Spread, Protocol):
    """Processes that share the work."""

    workers: int


def here(opening: Opening[I, O], items: Iterable[I]) -> Generator[tuple[I, O], None, None]:
    """Do the work in this process, one item after the other."""
    work = opening()
    for item in items:
        yield item, work(item)
