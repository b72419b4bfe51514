"""Measure what 8 and 4 bits cost a causal model: its perplexity on a text, against eager.

    python benchmarks/perplexity.py MODEL TEXT [--windows 8] [--width 256] [--output FILE]

The text is cut into windows of `width` tokens; each is read in one pass, without what is before it.
"""

from __future__ import annotations

import argparse
import logging
import math
from pathlib import Path
from typing import Any, get_args

import torch

from multistride.cli.console import log_to_stderr
from multistride.cpu import cpu_name
from multistride.decode.step import StepModel
from multistride.engines.eager import EagerStepModel
from multistride.engines.int8.engine import quantise
from multistride.engines.names import WeightForm
from multistride.errors import UsageError
from multistride.files import sha256, write_json
from multistride.groups import Slots
from multistride.model.directory import weights_digest
from multistride.model.weights import load_model
from multistride.version import __version__

logger = logging.getLogger("multistride.benchmarks")


def read(engine: StepModel[Any], tokens: torch.Tensor) -> tuple[float, torch.Tensor]:
    """Return the mean loss per token of windows [B, W], and the most probable token everywhere."""
    losses, best = [], []
    for window in tokens:
        row = window[None]
        position = torch.arange(1, row.shape[1] + 1)[None]
        slots = Slots(row, position, torch.ones_like(row), position.clone())
        logits = engine.step(slots, engine.start(None, None))[0].float()
        known = logits.log_softmax(-1)[:-1].gather(1, row[0, 1:, None])
        losses.append(-float(known.mean()))
        best.append(logits.argmax(-1))
    return sum(losses) / len(losses), torch.cat(best)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path)
    parser.add_argument("text", type=Path)
    parser.add_argument("--windows", type=int, default=8)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--output", type=Path)
    given = parser.parse_args()
    log_to_stderr()
    model, vocabulary = load_model(given.model)
    [tokens] = vocabulary.encode_source([given.text.read_text(encoding="utf-8")])
    wanted = given.windows * given.width
    windows = torch.tensor(tokens[:wanted]).view(-1, given.width)
    eager, expected = read(EagerStepModel(model), windows)
    rows = [{"name": "eager", "metrics": {"perplexity": round(math.exp(eager), 3)}}]
    for form in get_args(WeightForm):
        try:
            engine = quantise(model, form=form)
        except UsageError as error:  # int4 without VNNI
            logger.warning(str(error))
            continue
        rounded, found = read(engine, windows)
        metrics = {
            "perplexity": round(math.exp(rounded), 3),
            "rise_percent": round(100 * (math.exp(rounded - eager) - 1), 2),
            "same_most_probable_token": round(float((expected == found).float().mean()), 4),
        }
        rows.append({"name": f"{engine.name}: {engine.precision}", "metrics": metrics})
    for row in rows:
        logger.info(str(row))
    settings = {
        "model_sha256": weights_digest(given.model),
        "text_sha256": sha256(given.text),
        "windows": given.windows,
        "width": given.width,
        "cpu": cpu_name(),
        "multistride": __version__,
    }
    result = {"name": "Perplexity", "kind": "other", "settings": settings, "results": rows}
    if given.output:
        write_json(given.output, result)


if __name__ == "__main__":
    main()
