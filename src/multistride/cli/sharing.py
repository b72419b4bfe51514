"""The work of a cluster for `translate`, `generate` and `evaluate`: open the model, decode.

Everything here is pickled and sent to the workers, who import it there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from multistride.cli.chunks import Decode, Decoded, lines_work
from multistride.cli.options import Cluster, Machine
from multistride.cluster.spread import Spread, Workers
from multistride.decode.hypothesis import Hypothesis
from multistride.decode.options import DecodeOptions
from multistride.device import set_threads
from multistride.engines.names import EngineName
from multistride.errors import DataError, MissingExtraError, UsageError
from multistride.generator import Generator as CausalModel
from multistride.loading import load
from multistride.model.directory import weights_digest
from multistride.parts import Chunk
from multistride.shipped import directory
from multistride.text_model import TextModel

if TYPE_CHECKING:  # translate needs nothing of what measures
    from multistride.evaluate.decoded import Lot, Shared


@contextmanager
def spread(cluster: Cluster, machine: Machine) -> Iterator[Workers | None]:
    """Yield what shares work among the workers of a cluster; None without an address.

    Raises `MissingExtraError` without the extra, `UserError` if no cluster answers.
    """
    if cluster.ray is None:
        if cluster.workers is not None:
            raise UsageError(
                f"--workers {cluster.workers} was given without --ray: add --ray, or leave it out"
            )
        yield None
        return
    try:
        from multistride.cluster.pool import Pool, Resources, connected
    except ImportError as error:
        raise MissingExtraError(
            f"--ray needs {error.name}, which is not installed: pip install 'multistride[ray]'"
        ) from error
    gpu = machine.device != "cpu" and not machine.engine.startswith("int")
    with connected(cluster.ray):
        yield Pool(Resources(machine.threads or 1, gpu, cluster.workers))


@contextmanager
def lines_shared(
    cluster: Cluster,
    machine: Machine,
    model: Path | None,
    options: DecodeOptions,
    conversation: tuple[bool, str | None] = (False, None),
) -> Iterator[Decode | None]:
    """Yield what lets workers decode lines; None without a cluster.

    `conversation`: whether prompts are turns of a chat, and its system message.
    """
    with spread(cluster, machine) as shares:
        if shares is None:
            yield None
        else:
            yield partial(shares, LinesWork(Recipe.of(machine, model), options, *conversation))


@contextmanager
def tokens_shared(
    cluster: Cluster, machine: Machine, model: Path | None
) -> Iterator[Shared | None]:
    """Yield what lets workers decode token sequences; None without a cluster."""
    with spread(cluster, machine) as shares:
        work = TokensWork(Recipe.of(machine, model))
        yield None if shares is None else TokensShared(shares, shares.workers, work)


@dataclass(frozen=True)
class TokensShared:
    """The workers that decode token sequences (`evaluate.decoded.Shared`)."""

    spread: Spread
    workers: int
    work: TokensWork

    def __call__(self, lots: Iterable[Lot]) -> Iterable[tuple[Lot, list[Hypothesis]]]:
        """Yield every lot with its hypotheses, in order."""
        return self.spread(self.work, lots)


@dataclass(frozen=True)
class Recipe:
    """A model, and how to open it on another machine. The directory must be there under this path.

    `digest` is that of the weights as the verb sees them: a worker with others refuses to begin.
    """

    model: Path
    digest: str
    engine: EngineName
    device: str
    threads: int

    @classmethod
    def of(cls, machine: Machine, model: Path | None) -> Recipe:
        """Return the recipe of a model directory (None: the model that ships)."""
        path, threads = directory(model), machine.threads or 1
        return cls(path.absolute(), weights_digest(path), machine.engine, machine.device, threads)

    def opened(self) -> TextModel:
        """Return the model. Raises `DataError` if it is not the one that was meant."""
        set_threads(self.threads)
        model = load(self.model, self.device, self.engine)
        if weights_digest(self.model) != self.digest:
            raise DataError(
                f"{self.model} holds other weights on a worker's machine: copy the model there"
            )
        return model


@dataclass(frozen=True)
class LinesWork:
    """Opens a model and decodes chunks of lines with it."""

    recipe: Recipe
    options: DecodeOptions
    chat: bool = False
    system: str | None = None

    def __call__(self) -> Callable[[Chunk], Decoded]:
        """Return the function that decodes a chunk."""
        model = self.recipe.opened()
        if self.chat:
            assert isinstance(model, CausalModel)
            model = model.chatting(self.system)
        return lines_work(model, self.options)


@dataclass(frozen=True)
class TokensWork:
    """Opens a model and decodes token sequences with it, each lot with its own options."""

    recipe: Recipe

    def __call__(self) -> Callable[[Lot], list[Hypothesis]]:
        """Return the function that decodes a lot."""
        model = self.recipe.opened()

        def work(lot: Lot) -> list[Hypothesis]:
            options, rows = lot
            return model.decoded(rows, model.planned(options))

        return work
