"""One batch, decoded as options say: they become closures here, once, and then the loop runs."""

from __future__ import annotations

from collections.abc import Iterator

from jaxtyping import Float, Int
from torch import Tensor

from multistride.decode.choosing.strategy import (
    Measured,
    acceptor_for,
    drafts_for,
    layout_for,
    policy_for,
)
from multistride.decode.constraints import (
    Constraints,
    Permitted,
    check_prompted,
    constraints_of,
    most_probable,
    one_by_one,
)
from multistride.decode.even import decode_even, is_even
from multistride.decode.exact import Drafter, decode_exact, greedy_drafter
from multistride.decode.loop import decode
from multistride.decode.markov import distribution
from multistride.decode.options import DecodeOptions
from multistride.decode.phrases import PhraseDrafter
from multistride.decode.pick import Picked, Picker
from multistride.decode.sample import request_seed, sampler
from multistride.decode.single import decode_single, is_single
from multistride.decode.speculate import SpeculativeDrafter
from multistride.decode.state import DecodeState, Hypothesis
from multistride.model.step import EvenStepModel, M, SingleStepModel, StepModel


def begin_batch(
    model: StepModel[M],
    source: Int[Tensor, "B S"],
    lengths: Int[Tensor, "B"],
    options: DecodeOptions,
    constraints: Constraints | None = None,
    measured: Measured | None = None,
) -> tuple[DecodeState, Iterator[list[Hypothesis]]]:
    """The state of a batch, and the passes that decode it as `options` say: take them one by one,
    or all.

    Each gives the sentences it wrote into. Sources are padded on the right and end in EOS; those of
    a causal model are prompts, which do not end. `constraints` are those of the options where they
    are left out, which can say nothing about text. `measured` is what is known of the model; a way
    of decoding that needs more than there is raises `UsageError`.
    """
    config, rules = model.config, constraints or constraints_of(options, model.config)
    limits = [options.limit(length, config, len(rules.prefix)) for length in lengths.tolist()]
    given = [row[:length] for row, length in zip(source.tolist(), lengths.tolist(), strict=True)]
    if not config.encoder_layers:
        check_prompted(rules)
    prompts, encoded, counts = (
        (None, source, lengths) if config.encoder_layers else (given, None, None)
    )
    permitted = rules.in_batch(given, config)
    special = config.start_token, config.end_token
    state = DecodeState(
        limits, *special, prompts, config.start_symbol, rules.stopped, config.further_ends
    )
    seeds = [request_seed(options.seed, tokens) for tokens in given if options.temperature > 0]
    if options.mode == "exact":
        if (
            len(limits) == 1
            and is_single(options, config, measured)
            and isinstance(model, SingleStepModel)
        ):
            return state, decode_single(model, source, lengths, state, options.group_size)
        drafter = drafter_for(model, options, permitted, rules.prefix, state, seeds, measured)
        return state, decode_exact(
            model, encoded, counts, state, options.group_size, drafter, rules.prefix
        )
    if is_even(options, config) and isinstance(model, EvenStepModel):
        return state, decode_even(model, source, lengths, state, options.group_size)
    measured = measured or Measured()
    policy, accept = policy_for(options, config, measured), acceptor_for(options, config, measured)
    pick = _picker(model, options, permitted, state, seeds)
    lookahead = layout_for(options, config) == "lookahead"
    return state, decode(
        model, encoded, counts, state, policy, pick, accept, lookahead, rules.prefix
    )


def _picker(
    model: StepModel[M],
    options: DecodeOptions,
    permitted: Permitted | None,
    state: DecodeState,
    seeds: list[int],
) -> Picker | None:
    """What picks tokens where it is not plain greedy decoding."""
    config, head = model.config, model.markov
    if options.temperature > 0:
        return sampler(config, head, options, state, seeds, permitted)
    if permitted is None:
        return None
    walk = one_by_one(distribution(config, head), permitted, state)
    return lambda logits: walk(logits, most_probable, None)


def drafter_for(
    model: StepModel[M],
    options: DecodeOptions,
    permitted: Permitted | None,
    prefix: tuple[int, ...],
    state: DecodeState,
    seeds: list[int],
    measured: Measured | None,
) -> Drafter:
    """What drafts in exact mode, and checks the drafts; `measured` holds the table of phrases, if
    there is one.
    """
    if options.temperature > 0:
        return SpeculativeDrafter(model, options, state, seeds, permitted)
    choose = None
    if permitted is not None:
        walk = one_by_one(distribution(model.config, None), permitted, state)

        def choose(logits: Float[Tensor, "R N V"], columns: Int[Tensor, "R C"]) -> Picked:
            return walk(logits, most_probable, columns)

    drafts = drafts_for(options, measured)
    if drafts == "masks":
        return greedy_drafter(model, len(state.running), options.group_size, choose)
    phrases, masks = measured.phrases if measured else None, drafts == "both"
    return PhraseDrafter(model, state, options.group_size, phrases, masks, choose, prefix)


def decode_batch(
    model: StepModel[M],
    source: Int[Tensor, "B S"],
    lengths: Int[Tensor, "B"],
    options: DecodeOptions,
    constraints: Constraints | None = None,
    measured: Measured | None = None,
) -> list[Hypothesis]:
    """Decode one batch to its end, as `options` say. Sources are padded on the right and end in
    EOS.
    """
    state, passes = begin_batch(model, source, lengths, options, constraints, measured)
    for _ in passes:
        pass
    return state.hypotheses
