"""A worker that decodes with one of our engines: `python -m
multistride.evaluate.bench.workers.own`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from multistride.decode.batch import decode_batch
from multistride.decode.choosing.strategy import Measured
from multistride.decode.corpus import source_batch
from multistride.decode.options import DecodeOptions
from multistride.decode.plan import Plan, plan
from multistride.device import set_threads
from multistride.engines.interface import Engine, is_automatic
from multistride.engines.open import opened_model
from multistride.evaluate.bench.workers.loop import serve
from multistride.evaluate.bench.workers.messages import Sentence, Setup


class Own:
    """One of our engines."""

    def __init__(self, engine: Engine[Any], known: Measured) -> None:
        self._engine, self._known = engine, known
        self._plans: dict[DecodeOptions, Plan] = {}
        self.engine, self.precision = engine.name, engine.precision

    def write(self, sources: Sequence[Sequence[int]], options: DecodeOptions) -> list[Sentence]:
        """Decode one batch as `options` say."""
        source, lengths = source_batch(sources, self._engine.config)
        if options not in self._plans:
            chosen = plan(options, self._engine.config, knowledge=self._known)
            automatic = is_automatic(self._engine)
            self._plans[options] = chosen.thrifty() if automatic else chosen
        return [
            Sentence(
                tokens=tuple(hypothesis.tokens),
                written=len(hypothesis.log_probabilities),
                steps=hypothesis.steps,
            )
            for hypothesis in decode_batch(self._engine, source, lengths, self._plans[options])
        ]


def open_own(setup: Setup) -> Own:
    """Open the model in the engine that was asked for, with its calibration, as `load` does.

    Raises as `opened_model` and `Measured.read` do.
    """
    set_threads(setup.threads)
    engine, _ = opened_model(setup.model, setup.device, setup.engine)
    return Own(engine, Measured.read(setup.model, engine.config))


if __name__ == "__main__":
    serve(open_own)
