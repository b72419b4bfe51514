"""The loop for exact mode of one sentence, greedy, by masks, without a rule for texts.

`exact.decode_exact` does the same, and is what tests hold this to. Here a pass makes no tensors,
which in a small model cost as much as the network does.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

from jaxtyping import Int
from torch import Tensor

from multistride.decode.choosing.strategy import Measured, drafts_for
from multistride.decode.options import DecodeOptions
from multistride.decode.state import DecodeState, Hypothesis
from multistride.model.config import TransformerConfig
from multistride.model.step import M, SingleStepModel


def is_single(options: DecodeOptions, config: TransformerConfig, measured: Measured | None) -> bool:
    """Whether options of exact mode ask for that, of a model with a source."""
    by_masks = drafts_for(options, measured) == "masks"
    greedy = options.temperature == 0 and not options.constrained
    return greedy and by_masks and config.adapter is None and config.encoder_layers > 0


def decode_single(
    model: SingleStepModel[M],
    source: Int[Tensor, "1 S"],
    lengths: Int[Tensor, "1"],
    state: DecodeState,
    group_size: int,
) -> Iterator[list[Hypothesis]]:
    """Write what K=1 writes, up to `group_size` tokens a pass, until the sentence is over; yield it
    after each.
    """
    memory = model.start(source, lengths)
    last, drafts, written = model.config.start_token, list[int](), 0
    while not state.done:
        began = time.perf_counter()
        read = model.step_single([last, *drafts], written, group_size - 1, memory)
        kept = 1 + _agreed(read.tokens, drafts)
        model.forget(len(drafts) + 1 - kept + group_size - 1, memory)
        drafts = read.draft() if kept == len(read.tokens) and group_size > 1 else []
        last, written = read.tokens[kept - 1], written + kept
        milliseconds = 1000 * (time.perf_counter() - began)
        yield state.commit_even(
            [read.tokens[:kept]], [read.log_probabilities[:kept]], milliseconds, "", group_size
        )


def _agreed(tokens: list[int], drafts: list[int]) -> int:
    """How many drafts are what the model writes (`accept.verified_prefix`)."""
    return next(
        (place for place, draft in enumerate(drafts) if draft != tokens[place]), len(drafts)
    )
