"""A worker that decodes with transformers at K=1. Run it with `python -m`."""

from __future__ import annotations

from collections.abc import Sequence

from multistride.baselines.transformers import TransformersEngine
from multistride.decode.options import DecodeOptions
from multistride.device import set_threads
from multistride.evaluate.bench.workers.loop import serve, written_at_one
from multistride.evaluate.bench.workers.messages import Sentence, Setup
from multistride.model.weights import load_model


class Generate:
    """`generate` of transformers, in float32."""

    engine, precision = "transformers-float32", "float32"

    def __init__(self, setup: Setup) -> None:
        set_threads(setup.threads)
        model, _ = load_model(setup.model)
        self._config = model.config
        self._engine = TransformersEngine(model)

    def write(self, sources: Sequence[Sequence[int]], options: DecodeOptions) -> list[Sentence]:
        """Decode one batch; of `options` only the limits apply."""
        limits = [options.limit(len(source) + 1, self._config) for source in sources]
        written = self._engine.greedy(sources, max(limits))
        return [
            written_at_one(tokens, limit, self._config.end_token)
            for tokens, limit in zip(written, limits, strict=True)
        ]


if __name__ == "__main__":
    serve(Generate)
