"""A worker that decodes with one of our engines: `python -m
multistride.evaluate.bench.workers.own`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from multistride.decode.batch import decode_batch
from multistride.decode.corpus import source_batch
from multistride.decode.options import DecodeOptions
from multistride.device import pick_device, set_threads
from multistride.engines.interface import Engine
from multistride.engines.open import open_engine
from multistride.evaluate.bench.workers.loop import serve
from multistride.evaluate.bench.workers.messages import Sentence, Setup
from multistride.model.weights import load_model


class Own:
    """One of our engines."""

    def __init__(self, engine: Engine[Any]) -> None:
        self._engine = engine
        self.engine, self.precision = engine.name, engine.precision

    def write(self, sources: Sequence[Sequence[int]], options: DecodeOptions) -> list[Sentence]:
        """Decode one batch as `options` say."""
        source, lengths = source_batch(sources, self._engine.config)
        return [
            Sentence(
                tokens=tuple(hypothesis.tokens),
                written=len(hypothesis.log_probabilities),
                steps=hypothesis.steps,
            )
            for hypothesis in decode_batch(self._engine, source, lengths, options)
        ]


def open_own(setup: Setup) -> Own:
    """Load the model into the engine that was asked for. Raises as `open_engine` and `load_model`
    do.
    """
    set_threads(setup.threads)
    model, _ = load_model(setup.model, pick_device(setup.device))
    return Own(open_engine(model, setup.engine))


if __name__ == "__main__":
    serve(open_own)
