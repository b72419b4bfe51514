"""Decoding is a sentence: propose, pick, accept, commit."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

from jaxtyping import Int
from torch import Tensor

from multistride.decode.accept import Acceptor, accept_all, confident_prefix
from multistride.decode.exact import decode_exact
from multistride.decode.markov import greedy_for
from multistride.decode.options import DecodeOptions
from multistride.decode.pick import Picker
from multistride.decode.sample import request_seed, sampler
from multistride.decode.state import DecodeState, Hypothesis
from multistride.model.step import M, StepModel

GroupSize = Callable[[DecodeState], int]
"""How many tokens to write in the next step, given the state."""


def decode(
    model: StepModel[M],
    source: Int[Tensor, "B S"] | None,
    lengths: Int[Tensor, "B"] | None,
    state: DecodeState,
    group_size: GroupSize,
    pick: Picker,
    accept: Acceptor = accept_all,
) -> Iterator[list[Hypothesis]]:
    """Write groups until every sentence is over; after each step, yield the sentences it wrote into.

    `source` is None for a causal model without prompts. The result is in `state.hypotheses`.
    """
    memory = model.start(source, lengths)
    for prompt in state.prompt_slots():
        model.step(prompt, memory)
    while not state.done:
        began, size = time.perf_counter(), group_size(state)
        logits = model.step(state.slots(size), memory)  # propose
        picked = pick(logits[:, -size:])
        kept = accept(picked)
        yield state.commit(picked, kept, size, 1000 * (time.perf_counter() - began))
        if (stay := state.leave()) is not None and not state.done:
            memory.reorder(stay)


def begin_batch(
    model: StepModel[M], source: Int[Tensor, "B S"], lengths: Int[Tensor, "B"], options: DecodeOptions
) -> tuple[DecodeState, Iterator[list[Hypothesis]]]:
    """The state of a batch, and the passes that decode it as `options` say: take them one by one, or all.

    Each gives the sentences it wrote into. Sources are padded on the right and end in EOS; those of a causal model
    are prompts, which do not end.
    """
    config = model.config
    limits = [options.limit(length, config) for length in lengths.tolist()]
    given = [row[:length] for row, length in zip(source.tolist(), lengths.tolist(), strict=True)]
    prompts = None if config.encoder_layers else given
    state = DecodeState(limits, config.start_token, config.end_token, prompts, config.start_symbol)
    encoded, counts = (source, lengths) if config.encoder_layers else (None, None)
    if options.mode == "exact":
        return state, decode_exact(model, encoded, counts, state, options.group_size)
    accept = confident_prefix(options.sure_from) if options.mode == "adaptive" else accept_all
    pick = greedy_for(config, model.markov)
    if options.temperature > 0:
        seeds = [request_seed(options.seed, tokens) for tokens in given]
        pick = sampler(config, model.markov, options, state, seeds)
    return state, decode(model, encoded, counts, state, lambda _: options.group_size, pick, accept)


def decode_batch(
    model: StepModel[M], source: Int[Tensor, "B S"], lengths: Int[Tensor, "B"], options: DecodeOptions
) -> list[Hypothesis]:
    """Decode one batch to its end, as `options` say. Sources are padded on the right and end in EOS."""
    state, passes = begin_batch(model, source, lengths, options)
    for _ in passes:
        pass
    return state.hypotheses
