"""One batch, decoded as a plan says: the engine's own loop where it has one, else the plain one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from jaxtyping import Float, Int
from torch import Tensor

from multistride.decode.chances import Chances, request_seed
from multistride.decode.copying import Copied, PhraseDrafter, SamplingPhraseDrafter
from multistride.decode.exact import Drafter
from multistride.decode.hypothesis import Hypothesis, Running
from multistride.decode.loop import (
    Gathering,
    GroupWriter,
    JoinableBatch,
    Loop,
    RunningBatch,
    decode,
)
from multistride.decode.markov import distribution, searched
from multistride.decode.options import DRAWN, DecodeOptions
from multistride.decode.pick import Picked, Picker
from multistride.decode.plan import Plan, planned
from multistride.decode.sample import sampler
from multistride.decode.speculate import SpeculativeDrafter
from multistride.decode.state import DecodeState
from multistride.decode.step import M, ShowsStates, StepModel
from multistride.decode.thrift import Counter, thrifty, timing, waiting
from multistride.decode.walk import Permitted, most_probable, one_by_one
from multistride.decode.writer import Writer


class Rows(NamedTuple):
    """Length limits and seeds (as options give them), which each text of a batch has of its own."""

    limits: list[int]
    seeds: list[int]


def begin_batch(
    engine: StepModel[M],
    source: Int[Tensor, "B S"],
    lengths: Int[Tensor, "B"],
    requested: Plan | DecodeOptions,
    rows: Rows | None = None,
) -> tuple[DecodeState, Iterator[list[Hypothesis]]]:
    """Return the state of a batch and the passes that decode it: take them one by one, or all.

    Each pass gives the texts it wrote into; passes that read prompts write into none. Sources are
    padded on the right and end in EOS; those of a causal model are prompts, which do not end.
    `rows` are by default those of the plan.
    """
    plan, config = suited(planned(requested, engine.config), engine), engine.config
    given = [row[:length] for row, length in zip(source.tolist(), lengths.tolist(), strict=True)]
    limits, seeds = rows or Rows(
        [plan.limit(length) for length in lengths.tolist()], [plan.options.seed] * len(given)
    )
    encodes = config.encoder_layers > 0
    state = new_state(plan, limits, None if encodes else given)
    shortcut = getattr(engine, "shortcut", None)
    plan, count = _frugal(plan, len(limits))
    loop: Loop | None = None if shortcut is None else shortcut(plan, len(limits))
    encoded, counts = (source, lengths) if encodes else (None, None)
    if loop is not None:
        passes = loop(encoded, counts, state)
    else:
        writer = writer_for(engine, plan, state, given, seeds)
        passes = decode(engine, encoded, counts, state, writer, plan.rules.prefix)
    return state, passes if count is None else count(passes, state)


def suited(plan: Plan, engine: StepModel[Any]) -> Plan:
    """Return the plan, without a search of groups that nobody asked for on an engine that would
    take several times as long for it.
    """
    searches: Callable[[int], bool] | None = getattr(engine, "searches", None)
    quick = searches is None or searches(plan.group_beam)
    return plan if quick else replace(plan, searches=False)


def _frugal(plan: Plan, rows: int) -> tuple[Plan, Counter | None]:
    """Return the plan of a batch as its economy has it, and what counts its passes for that.

    A single text may change its way between passes, unless K=1 is settled.
    """
    economy = plan.economy
    if economy is None:
        return plan, None
    if rows == 1:
        settled = economy.settled(rows)
        return (plan.without_drafts(), waiting(economy)) if settled else (plan, None)
    drafts = economy.batches.drafts(rows)
    chosen = replace(plan, economy=None) if drafts else plan.without_drafts()
    return chosen, timing(economy.batches, drafts)


def begin_joinable(
    engine: StepModel[M],
    source: Int[Tensor, "B S"],
    lengths: Int[Tensor, "B"],
    plan: Plan,
    rows: Rows,
) -> JoinableBatch:
    """Return a batch that others of the same plan may join: take its `passes`.

    What it writes is what `begin_batch` writes; `joinable` says where that is possible.
    """
    plan = suited(plan, engine)
    if (gather := gathering(engine, plan)) is not None:
        return gather(source, lengths, Running(rows.limits, plan.ending))
    given = [row[:length] for row, length in zip(source.tolist(), lengths.tolist(), strict=True)]
    encodes = plan.config.encoder_layers > 0
    state = new_state(plan, rows.limits, None if encodes else given)
    own: Writer[M] | None = None
    if (make := getattr(engine, "writer", None)) is not None:
        own = make(plan, state)
    writer = own or writer_for(engine, plan, state, given, rows.seeds)
    encoded, counts = (source, lengths) if encodes else (None, None)
    batch = RunningBatch.started(engine, encoded, counts, state, writer)
    batch.ready = encodes and not plan.rules.prefix
    return batch


def gathering(engine: StepModel[Any], plan: Plan) -> Gathering | None:
    """Return the engine's own way to begin a batch that others may join; None if it has none.

    Such a batch is as fast as one that nobody joins.
    """
    own: Callable[[Plan], Gathering | None] | None = getattr(engine, "gathering", None)
    return None if own is None else own(suited(plan, engine))


def joinable(engine: StepModel[Any], plan: Plan) -> bool:
    """True if batches of a plan may join: no row has a rule of its own, and the engine's memory
    can.
    """
    return plan.rules.allowing is None and getattr(engine, "joins", False)


def new_state(
    plan: Plan, limits: list[int], prompts: Sequence[Sequence[int]] | None
) -> DecodeState:
    """Return the state of a batch before its first pass; `prompts` are what texts begin with."""
    config = plan.config
    return DecodeState(limits, config.start_token, plan.ending, prompts, config.start_symbol)


def writer_for(
    engine: StepModel[M],
    plan: Plan,
    state: DecodeState,
    given: Sequence[Sequence[int]],
    seeds: list[int],
) -> Writer[M]:
    """Return what writes a batch: `given` are its sources or prompts, `seeds` those of its texts,
    as options give them.
    """
    if plan.options.temperature > 0:
        seeds = list(map(request_seed, seeds, given))
    permitted = plan.rules.in_batch(given, plan.config)
    if plan.mode == "exact":
        return thrifty(_drafter(engine, plan, permitted, state, seeds), plan.economy)
    chances = Chances(seeds, state) if plan.options.temperature > 0 else None
    pick = _picker(engine, plan, permitted, state, chances)
    lookahead = plan.layout == "lookahead"
    return GroupWriter(engine, plan.policy, pick, plan.accept, lookahead, chances)


def decode_batch(
    engine: StepModel[M],
    source: Int[Tensor, "B S"],
    lengths: Int[Tensor, "B"],
    requested: Plan | DecodeOptions,
) -> list[Hypothesis]:
    """Decode one batch to its end. Sources are padded on the right and end in EOS."""
    state, passes = begin_batch(engine, source, lengths, requested)
    for _ in passes:
        pass
    return state.hypotheses


def _picker(
    engine: StepModel[Any],
    plan: Plan,
    permitted: Permitted | None,
    state: DecodeState,
    chances: Chances | None,
) -> Picker | None:
    """Return what picks tokens where it is not plain greedy decoding."""
    config, head = engine.config, engine.markov
    if chances is not None:
        numbers = max(config.group_sizes) if plan.custom_policy else None
        return sampler(config, head, plan.options, chances, permitted, numbers)
    if plan.group_beam > 1 and head is not None:
        return searched(config, head, plan.group_beam)
    if permitted is None:
        return None
    walk = one_by_one(distribution(config, head), permitted, state)
    return lambda logits: walk(logits, most_probable, None)


def _drafter(
    engine: StepModel[M],
    plan: Plan,
    permitted: Permitted | None,
    state: DecodeState,
    seeds: list[int],
) -> Drafter[M]:
    """Return what drafts in exact mode, and checks the drafts."""
    sampled, drawn = plan.options.temperature > 0, plan.drafts in DRAWN
    if sampled and drawn:
        return SpeculativeDrafter(engine, plan.options, state, seeds, permitted)
    if sampled:
        sources = _copied(engine, plan)
        return SamplingPhraseDrafter(engine, plan.options, state, seeds, sources, permitted)
    choose = None
    if permitted is not None:
        walk = one_by_one(distribution(engine.config, None), permitted, state)

        def choose(logits: Float[Tensor, "R N V"], columns: Int[Tensor, "R C"]) -> Picked:
            return walk(logits, most_probable, columns)

    if drawn:
        everywhere = plan.drafts == "all-masks"
        return Drafter(engine, len(state.running), plan.group_size, choose, everywhere=everywhere)
    return PhraseDrafter(engine, state, plan.group_size, _copied(engine, plan), choose)


def _copied(engine: StepModel[Any], plan: Plan) -> Copied:
    """Return the sources of drafts beside the text so far."""
    head = plan.knowledge.head if plan.drafts == "head" else None
    if not isinstance(engine, ShowsStates):
        head = None
    own = getattr(engine, "own_head", None)
    if head is not None and own is not None:
        head = own(head)
    return Copied(plan.knowledge.phrases, plan.drafts == "both", plan.rules.prefix, head)
