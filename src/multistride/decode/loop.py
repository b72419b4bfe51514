"""Decoding is a sentence: propose, pick, accept, commit."""

from __future__ import annotations

import time
from collections.abc import Iterator

from jaxtyping import Int
from torch import Tensor

from multistride.decode.accept import Acceptor, accept_all
from multistride.decode.exact import decode_exact
from multistride.decode.markov import greedy_for
from multistride.decode.options import DecodeOptions
from multistride.decode.pick import Picker, left_aligned
from multistride.decode.policy import Policy
from multistride.decode.sample import request_seed, sampler
from multistride.decode.state import DecodeState, Hypothesis
from multistride.decode.strategy import Measured, acceptor_for, layout_for, policy_for
from multistride.model.step import M, StepModel


def decode(
    model: StepModel[M],
    source: Int[Tensor, "B S"] | None,
    lengths: Int[Tensor, "B"] | None,
    state: DecodeState,
    policy: Policy,
    pick: Picker,
    accept: Acceptor = accept_all,
    lookahead: bool = False,
) -> Iterator[list[Hypothesis]]:
    """Write groups until every sentence is over; after each step, yield the sentences it wrote into.

    `source` is None for a causal model. With `lookahead` known tokens are read as at K=1 and masks stand for those
    that a group writes behind its first; the masks are forgotten, so no step depends on where earlier ones ended.
    The result is in `state.hypotheses`.
    """
    memory = model.start(source, lengths)
    while not state.done:
        began, (sizes, reasons) = time.perf_counter(), policy(state)
        slots = state.clean_slots(sizes, model.config.mask_token) if lookahead else state.slots(sizes)
        picked = pick(left_aligned(model.step(slots, memory), sizes))  # propose, pick
        kept = accept(picked, sizes)
        if lookahead:
            memory.truncate(sizes - 1)
        yield state.commit(picked, kept, sizes, 1000 * (time.perf_counter() - began), reasons)
        if (stay := state.leave()) is not None and not state.done:
            memory.reorder(stay)


def begin_batch(
    model: StepModel[M],
    source: Int[Tensor, "B S"],
    lengths: Int[Tensor, "B"],
    options: DecodeOptions,
    measured: Measured | None = None,
) -> tuple[DecodeState, Iterator[list[Hypothesis]]]:
    """The state of a batch, and the passes that decode it as `options` say: take them one by one, or all.

    Each gives the sentences it wrote into. Sources are padded on the right and end in EOS. `measured` is what is
    known of the model; a way of decoding that needs more than there is raises `UsageError`.
    """
    config = model.config
    limits = [options.limit(length, config) for length in lengths.tolist()]
    state = DecodeState(limits, config.start_token, config.end_token)
    if options.mode == "exact":
        return state, decode_exact(model, source, lengths, state, options.group_size)
    pick = greedy_for(config, model.markov)
    if options.temperature > 0:
        seeds = [
            request_seed(options.seed, row[:length])
            for row, length in zip(source.tolist(), lengths.tolist(), strict=True)
        ]
        pick = sampler(config, model.markov, options, state, seeds)
    measured = measured or Measured()
    policy, accept = policy_for(options, config, measured), acceptor_for(options, config, measured)
    lookahead = layout_for(options, config) == "lookahead"
    return state, decode(model, source, lengths, state, policy, pick, accept, lookahead)


def decode_batch(
    model: StepModel[M],
    source: Int[Tensor, "B S"],
    lengths: Int[Tensor, "B"],
    options: DecodeOptions,
    measured: Measured | None = None,
) -> list[Hypothesis]:
    """Decode one batch to its end, as `options` say. Sources are padded on the right and end in EOS."""
    state, passes = begin_batch(model, source, lengths, options, measured)
    for _ in passes:
        pass
    return state.hypotheses
