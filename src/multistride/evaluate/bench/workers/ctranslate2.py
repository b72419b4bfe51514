"""A worker that decodes with CTranslate2 at K=1. Run it with `python -m`."""

from __future__ import annotations

from collections.abc import Sequence

from multistride.baselines.ctranslate2 import CTranslate2Engine
from multistride.decode.options import DecodeOptions
from multistride.evaluate.bench.workers.loop import serve, written_at_one
from multistride.evaluate.bench.workers.messages import Sentence, Setup
from multistride.model.directory import load_config


class CTranslate2:
    """Weights that were converted before, opened in the precision asked for."""

    def __init__(self, setup: Setup) -> None:
        self._config = load_config(setup.model)
        self._engine = CTranslate2Engine(
            self._config, setup.compute_type, threads=setup.threads, converted=setup.converted
        )
        self.engine, self.precision = f"ctranslate2-{setup.compute_type}", setup.compute_type

    def write(self, sources: Sequence[Sequence[int]], options: DecodeOptions) -> list[Sentence]:
        """Decode one batch; of `options` only the limits apply."""
        limits = [options.limit(len(source) + 1, self._config) for source in sources]
        written = self._engine.greedy(sources, max(limits))
        return [
            written_at_one(tokens, limit, self._config.end_token)
            for tokens, limit in zip(written, limits, strict=True)
        ]


if __name__ == "__main__":
    serve(CTranslate2)
