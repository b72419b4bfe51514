"""Time the steps of a model on this machine, once; the user's cache directory keeps the tables."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable
from contextlib import suppress
from hashlib import sha256

import torch
from pydantic import ValidationError

from multistride.cpu import cpu_name
from multistride.decode.choosing.cost import StepCosts
from multistride.decode.choosing.policy import fixed
from multistride.decode.ending import EndingRule
from multistride.decode.loop import GroupWriter, decode
from multistride.decode.state import DecodeState
from multistride.decode.step import M, StepModel
from multistride.engines.cache import cache_directory
from multistride.errors import DataError, UserError
from multistride.files import write_json
from multistride.model.config import Layout
from multistride.untrusted import read_json
from multistride.version import __version__

ROWS = (1, 2, 4, 8, 16, 32)
"""Batch sizes whose steps are timed; others are interpolated or extrapolated in proportion."""

SOURCE_TOKENS, STEPS, ROUNDS = 16, 6, 3
"""Source tokens of a sentence, steps and rounds that are timed; the median is used."""


def profile(model: StepModel[M], engine: str, layout: Layout, most_rows: int) -> StepCosts:
    """Return the times of steps in batches of up to `most_rows`, for each trained group size.

    Sources are random tokens, every token of a group is kept and no sentence ends: the cost of a
    step depends on its shape alone.
    """
    rows = [each for each in ROWS if each < most_rows] + [min(most_rows, ROWS[-1])]
    table = {each: _times(model, layout, each) for each in rows}
    return StepCosts(
        engine=engine, layout=layout, threads=torch.get_num_threads(), cpu=cpu_name(), table=table
    )


def cached_costs(
    model: StepModel[M],
    engine: str,
    layout: Layout,
    most_rows: int,
    model_hash: str,
    report: Callable[[str], None] = lambda line: None,
) -> StepCosts:
    """`profile`, or what it found before: by model, engine, layout, batch size, threads, processor
    and versions.

    A file that cannot be read is made again, one that cannot be written is done without.
    """
    threads, versions = torch.get_num_threads(), [__version__, torch.__version__]
    key = json.dumps(
        [model_hash, engine, layout, min(most_rows, ROWS[-1]), threads, cpu_name(), versions]
    )
    path = cache_directory() / "step-costs" / f"{sha256(key.encode()).hexdigest()[:24]}.json"
    try:
        return StepCosts.model_validate(read_json(path))
    except (DataError, ValidationError):
        report("timing the steps of this model on this machine, once")
    costs = profile(model, engine, layout, most_rows)
    with suppress(UserError, OSError):
        write_json(path, costs.model_dump(mode="json"))
    return costs


def _times(model: StepModel[M], layout: Layout, rows: int) -> dict[int, float]:
    config = model.config
    generator = torch.Generator().manual_seed(0)
    source = torch.randint(0, config.vocabulary_size, (rows, SOURCE_TOKENS), generator=generator)
    lengths = torch.full((rows,), SOURCE_TOKENS)
    encoded, counts = (source, lengths) if config.encoder_layers else (None, None)
    times: dict[int, list[float]] = {size: [] for size in config.group_sizes}
    for turn in range(ROUNDS + 1):
        for size, measured in times.items():
            state = DecodeState([size * STEPS] * rows, config.start_token, EndingRule.at(-1))
            writer = GroupWriter(model, fixed(size), lookahead=layout == "lookahead")
            for _ in decode(model, encoded, counts, state, writer):
                pass
            if turn:  # the first round warms up
                measured += [group.milliseconds for group in state.hypotheses[0].groups]
    return {size: statistics.median(measured) for size, measured in times.items()}
