"""The loop for the usual case: greedy, every group whole and of one size, no rule for texts. All
rows stand alike.

`loop.decode` does the same, and is what tests hold this to. Here a step makes no tensors, which in
a small model cost as much as the network does.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

import numpy as np
from jaxtyping import Int
from torch import Tensor

from multistride.decode.choosing.policy import AS_ASKED
from multistride.decode.options import DecodeOptions
from multistride.decode.state import DecodeState, Hypothesis
from multistride.model.config import TransformerConfig
from multistride.model.step import EvenStepModel, M


def is_even(options: DecodeOptions, config: TransformerConfig) -> bool:
    """Whether options ask for the usual case, of a model with a source."""
    alike = (
        options.mode == "fast"
        and options.policy in (None, "fixed")
        and options.layout in (None, "sat")
    )
    return (
        alike and options.temperature == 0 and not options.constrained and config.encoder_layers > 0
    )


def decode_even(
    model: EvenStepModel[M],
    source: Int[Tensor, "B S"],
    lengths: Int[Tensor, "B"],
    state: DecodeState,
    group_size: int,
) -> Iterator[list[Hypothesis]]:
    """Write groups until every sentence is over; after each step, yield the sentences it wrote
    into.
    """
    memory = model.start(source, lengths)
    tokens = np.full((len(state.running), group_size), model.config.start_token, np.int64)
    while not state.done:
        began = time.perf_counter()
        tokens, log_probabilities = model.step_even(tokens, memory)
        milliseconds = 1000 * (time.perf_counter() - began)
        yield state.commit_even(tokens.tolist(), log_probabilities.tolist(), milliseconds, AS_ASKED)
        if (stay := state.leave()) is not None and not state.done:
            memory.reorder(stay)
            tokens = tokens[stay.numpy()]
