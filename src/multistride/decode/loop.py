"""Decoding is a sentence: propose, pick, accept, commit."""

from __future__ import annotations

import time
from collections.abc import Iterator

from jaxtyping import Int
from torch import Tensor

from multistride.decode.accept import Acceptor, accept_all
from multistride.decode.choosing.policy import Policy
from multistride.decode.markov import proposer
from multistride.decode.pick import Picker
from multistride.decode.prefix import read_prefix
from multistride.decode.state import DecodeState, Hypothesis
from multistride.model.step import M, StepModel


def decode(
    model: StepModel[M],
    source: Int[Tensor, "B S"] | None,
    lengths: Int[Tensor, "B"] | None,
    state: DecodeState,
    policy: Policy,
    pick: Picker | None = None,
    accept: Acceptor = accept_all,
    lookahead: bool = False,
    prefix: tuple[int, ...] = (),
) -> Iterator[list[Hypothesis]]:
    """Write groups until every sentence is over; after each step, yield the sentences it wrote
    into.

    `source` is None for a causal model, `pick` for the most probable tokens. With `lookahead` known
    tokens are read as at K=1 and masks stand for those that a group writes behind its first; the
    masks are forgotten, so no step depends on where earlier ones ended. Sentences begin with
    `prefix`. The result is in `state.hypotheses`.
    """
    propose = proposer(model, pick)
    memory = model.start(source, lengths)
    for prompt in state.prompt_slots():
        model.step(prompt, memory)
    if prefix and not state.done:
        began = time.perf_counter()
        size = 1 if lookahead else int(policy(state).sizes.max())
        given = read_prefix(model, memory, len(state.running), prefix, size)
        yield state.begin(*given, 1000 * (time.perf_counter() - began))
        if (stay := state.leave()) is not None and not state.done:
            memory.reorder(stay)
    while not state.done:
        began, (sizes, reasons) = time.perf_counter(), policy(state)
        slots = (
            state.clean_slots(sizes, model.config.mask_token) if lookahead else state.slots(sizes)
        )
        picked = propose(slots, memory, sizes)  # propose and pick
        kept = accept(picked, sizes)
        if lookahead:
            memory.truncate(sizes - 1)
        yield state.commit(picked, kept, sizes, 1000 * (time.perf_counter() - began), reasons)
        if (stay := state.leave()) is not None and not state.done:
            memory.reorder(stay)
