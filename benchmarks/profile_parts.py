"""Measure where the time of decoding goes: encoder, decoder, choosing tokens, and the host.

    python benchmarks/profile_parts.py MODEL SOURCE [--engine int8] [--batch-size 1,8,32]
        [--group-size 1,4] [--output FILE]

Every call of the engine is timed, and on the int8 engine every call of a network within it. The
rest of the engine's calls is masks, arrays and the Markov head; the rest of the whole is the host:
slots, committing, batches that shrink. Figures are milliseconds per sentence, medians of rounds.
"""

from __future__ import annotations

import argparse
import logging
import statistics
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

from multistride.cli.console import log_to_stderr, numbers
from multistride.cpu import check_threads, cpu_name
from multistride.decode.batch import decode_batch
from multistride.decode.corpus import source_batch
from multistride.decode.options import DecodeOptions
from multistride.device import set_threads
from multistride.evaluate.bench.rounds import batches_by_length
from multistride.evaluate.sentences import read_test_set
from multistride.evaluate.speed import spread
from multistride.files import write_json
from multistride.translator import Translator

logger = logging.getLogger("multistride.benchmarks")

SENTENCES, ROUNDS = 64, 3


class Clock:
    """Adds up the seconds of the calls that it is put around, by name; of calls within each other,
    the outer one.
    """

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self._inside: set[str] = set()

    def around(self, kind: str, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        """Return a call that is timed under `kind` and `name`."""

        def timed(*arguments: Any) -> Any:
            if kind in self._inside:
                return call(*arguments)
            self._inside.add(kind)
            began = time.perf_counter()
            try:
                return call(*arguments)
            finally:
                self.seconds[f"{kind} {name}"] += time.perf_counter() - began
                self._inside.remove(kind)

        return timed

    def parts(self, whole: float) -> dict[str, float]:
        """Return seconds of parts that do not overlap; `all` is `whole`, their sum."""
        engine = {
            name: seconds for name, seconds in self.seconds.items() if name.startswith("engine")
        }
        networks = {
            name: seconds for name, seconds in self.seconds.items() if name.startswith("network")
        }
        inside = sum(engine.values())
        if networks:
            engine = {**networks, "rest of the engine": max(0.0, inside - sum(networks.values()))}
        return {**engine, "host": max(0.0, whole - inside), "all": whole}


def watch(engine: Any, clock: Clock) -> None:
    """Put the clock around every call of an engine, and around its networks where it has some."""
    for name in ("start", "step", "step_greedy", "step_even", "step_checked"):
        if hasattr(engine, name):
            setattr(
                engine, name, clock.around("engine", name.partition("_")[0], getattr(engine, name))
            )
    if hasattr(engine, "_networks"):
        _watch_networks(engine._networks, clock)


def _watch_networks(networks: Any, clock: Clock) -> None:
    """Time each run of the int8 engine's networks, which stay of their kind: loops ask for it."""
    kind, watched = type(networks), dict[str, WatchedNetwork]()

    class WatchedNetworks(kind):  # type: ignore[misc, valid-type]
        def __getitem__(self, name: str) -> Any:
            if name not in watched:
                network = super().__getitem__(name)
                watched[name] = WatchedNetwork(
                    network, lambda call: clock.around("network", name, call)
                )
            return watched[name]

    networks.__class__ = WatchedNetworks


class WatchedNetwork:
    """One of them: called with arrays, or bound to arrays first and called then."""

    def __init__(self, network: Any, timed: Callable[[Any], Callable[..., Any]]) -> None:
        self._network, self._timed = network, timed

    def __call__(self, inputs: dict[str, Any]) -> Any:
        """Run it on arrays."""
        return self._timed(self._network)(inputs)

    def fill(self, inputs: dict[str, Any], outputs: dict[str, Any]) -> None:
        """Run it on arrays, into arrays."""
        self._timed(self._network.fill)(inputs, outputs)

    def bound(self, inputs: dict[str, Any], outputs: dict[str, Any]) -> Any:
        """The same bound to memory; its runs are timed."""
        bound = self._network.bound(inputs, outputs)
        return WatchedBound(bound, self._timed(bound))


class WatchedBound:
    """A network and the memory it works on."""

    def __init__(self, bound: Any, run: Callable[[], None]) -> None:
        self._run, self._bound = run, bound

    def __call__(self) -> None:
        """Run it."""
        self._run()

    def __getattr__(self, name: str) -> Any:
        """What else it can do: some take other inputs (`read`), some do not."""
        return getattr(self._bound, name)


def profile(
    engine: Any, clock: Clock, sources: list[list[int]], batch_size: int, group_size: int
) -> dict[str, float]:
    """Return milliseconds per sentence of each part; `host` is what no engine call took."""
    options = DecodeOptions(group_size=group_size, batch_size=batch_size)
    batches = [
        [sources[place] for place in rows]
        for rows in batches_by_length(list(map(len, sources)), batch_size)
    ]
    rounds: defaultdict[str, list[float]] = defaultdict(list)
    for number in range(ROUNDS + 1):
        clock.seconds.clear()
        began = time.perf_counter()
        for batch in batches if number else batches[:1]:
            decode_batch(engine, *source_batch(batch, engine.config), options)
        for name, seconds in clock.parts(time.perf_counter() - began).items():
            if number:  # the first round warms up
                rounds[name].append(1000 * seconds / len(sources))
    return {name: round(statistics.median(each), 3) for name, each in rounds.items()}


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path)
    parser.add_argument("source", type=Path)
    parser.add_argument("--engine", default="int8")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batch-size", default="1,8,32")
    parser.add_argument("--group-size", default="1,4")
    parser.add_argument("--output", type=Path)
    given = parser.parse_args()
    log_to_stderr()
    check_threads(given.threads)
    set_threads(given.threads)
    translator = Translator.load(given.model, "cpu", given.engine)
    test_set = read_test_set(translator, given.source, None, None)
    sources = test_set.decodable()
    sources = [sources[place] for place in spread(len(sources), SENTENCES)]
    clock = Clock()
    watch(translator.engine, clock)
    rows = []
    for batch_size in numbers(given.batch_size, "--batch-size"):
        for group_size in numbers(given.group_size):
            parts = profile(translator.engine, clock, sources, batch_size, group_size)
            rows.append(
                {"batch_size": batch_size, "group_size": group_size, "ms_per_sentence": parts}
            )
            logger.info(f"batch {batch_size}, K={group_size}: {parts}")
    engine = translator.engine
    settings = {
        "engine": engine.name,
        "precision": engine.precision,
        "threads": given.threads,
        "cpu": cpu_name(),
    }
    amounts = {"model": given.model.name, "sentences": len(sources), "rounds": ROUNDS}
    if given.output:
        write_json(given.output, {"settings": {**settings, **amounts}, "parts": rows})


if __name__ == "__main__":
    main()
