"""Batches that join between passes write what each of their texts is written alone."""

from dataclasses import replace

import pytest
import torch

from multistride.decode.batch import Rows, begin_batch, begin_joinable, gathering, joinable
from multistride.decode.corpus import source_batch
from multistride.decode.options import DecodeOptions
from multistride.decode.plan import plan
from multistride.engines.eager import EagerStepModel
from multistride.engines.gpu.engine import GpuStepModel
from multistride.engines.int8 import engine as int8
from multistride.engines.int8.gathered import alike
from multistride.model.config import TransformerConfig
from multistride.model.transformer import Transformer

WAYS = (
    {"group_size": 4},
    {"group_size": 4, "mode": "adaptive", "threshold": 0.02},
    {"group_size": 4, "mode": "exact"},
    {"group_size": 3, "mode": "exact", "drafts": "both"},
    {"group_size": 4, "no_repeat_ngram": 2},
    {"group_size": 4, "temperature": 1.0},
    {"group_size": 3, "mode": "exact", "temperature": 1.0, "top_p": 0.9},
    {"group_size": 3, "mode": "exact", "temperature": 0.5, "drafts": "both"},
)


def tiny(causal, positions, **sizes):
    torch.manual_seed(17)
    config = TransformerConfig(
        vocabulary_size=40,
        hidden_size=32,
        feedforward_size=32,
        heads=2,
        encoder_layers=0 if causal else 1,
        decoder_layers=2,
        positions="rotary" if positions == "window" else positions,
        attention_window=4 if positions == "window" else None,
        max_positions=40,
        max_group_size=4,
        group_sizes=(1, 2, 4),
        lookahead=True,
        tie_embeddings=False,
        **sizes,
    )
    model = Transformer(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.7)
        model.output.weight.mul_(3)
        model.reach.beyond_one.weight[1:].normal_(std=0.5)
    return model


@pytest.fixture(
    scope="module",
    params=[
        ("eager", False, "sinusoidal"),
        ("eager", True, "rotary"),
        ("eager", False, "relative"),
        ("eager", True, "window"),
        ("gpu", False, "sinusoidal"),
        ("gpu", True, "rotary"),
        ("int8", False, "sinusoidal"),
        ("int8", True, "rotary"),
    ],
    ids=lambda param: f"{param[0]}-{'causal' if param[1] else 'translation'}-{param[2]}",
)
def engine(request):
    name, *shape = request.param
    if name == "eager":
        return EagerStepModel(tiny(*shape))
    if name == "gpu":
        device = "cuda" if torch.cuda.is_available() else "cpu"
        return GpuStepModel(tiny(*shape).to(device), torch.float32)
    pytest.importorskip("onnxruntime", reason="the extra [int8] is not installed")
    return int8.quantise(tiny(*shape), threads=1)


def texts(count):
    generator = torch.Generator().manual_seed(6)
    lengths = torch.randint(1, 14, (count,), generator=generator).tolist()
    return [torch.randint(5, 40, (length,), generator=generator).tolist() for length in lengths]


def rows(sources):
    """Limits that let texts end at different passes, and seeds."""
    return Rows([9 + sum(source) % 17 for source in sources], [sum(source) for source in sources])


def begun(engine, sources, way):
    return begin_joinable(engine, *source_batch(sources, engine.config), way, rows(sources))


@torch.inference_mode()
def joined(engine, sources, way, every):
    """Return the tokens and steps of all sources, three of which come every few passes."""
    waiting, owners, results = list(enumerate(sources)), {}, {}
    host = passes = None
    joins = 0
    for turn in range(10_000):
        if waiting and turn % every == 0:
            arrived, waiting = waiting[:3], waiting[3:]
            batch = begun(engine, [source for _, source in arrived], way)
            names = zip(batch.state.hypotheses, arrived, strict=True)
            owners |= {id(hypothesis): (name, hypothesis) for hypothesis, (name, _) in names}
            own = batch.passes(way.rules.prefix)
            while not batch.ready and not batch.state.done:
                next(own)
            if host is None or host.state.done:
                host, passes = batch, own
            elif not batch.state.done:
                host.join(batch)
                joins += 1
        if host.state.done and not waiting:
            break
        next(passes, None)
    for name, hypothesis in owners.values():
        steps = [group.step for group in hypothesis.groups]
        assert steps == list(range(len(steps)))
        results[name] = hypothesis.tokens, hypothesis.ending
    assert joins > 1, "the texts were over before others came"
    return [results[name] for name in range(len(sources))]


@pytest.mark.parametrize("way", WAYS, ids=lambda way: "-".join(map(str, way.values())))
def test_rows_that_join_write_what_they_write_alone(engine, way):
    # Guards: rows mixed up, holes that are seen, sources cut, drafts of other rows, wrong steps.
    sources = texts(15)
    planned = plan(DecodeOptions.made(**way), engine.config)
    assert joinable(engine, planned)
    batch = source_batch(sources, engine.config)
    state, passes = begin_batch(engine, *batch, planned, rows(sources))
    assert sum(1 for _ in passes) > 2
    alone = [(written.tokens, written.ending) for written in state.hypotheses]  # batch = single
    assert len({len(tokens) for tokens, _ in alone}) > 3
    assert joined(engine, sources, planned, every=1) == alone


@pytest.mark.parametrize("beam", [1, 3])
@torch.inference_mode()
def test_whole_groups_join_while_both_run(beam):
    """Groups of the int8 engine, chained by a head or searched: arrays that are too small, rows of
    several lengths, a batch that has slots already, rows that leave in between, a stop text.
    """
    pytest.importorskip("onnxruntime", reason="the extra [int8] is not installed")
    engine = int8.quantise(tiny(False, "sinusoidal", markov_rank=4), threads=1)
    if not engine.searches(beam):
        pytest.skip("the native kernels do not run here")
    sources = texts(15)
    planned = plan(DecodeOptions.made(group_size=2, group_beam=beam), engine.config)
    planned = replace(planned, rules=replace(planned.rules, stopped=lambda known, new: stop(new)))
    assert gathering(engine, planned) is not None
    batch = source_batch(sources, engine.config)
    state, passes = begin_batch(engine, *batch, planned, rows(sources))
    assert sum(1 for _ in passes) > 8
    alone = [(written.tokens, written.ending) for written in state.hypotheses]
    assert {ending for _, ending in alone} >= {"stop", "limit"}
    host, owners = begun(engine, sources[:3], planned), []
    owners += host.state.hypotheses
    own = host.passes(())
    for first in range(3, 15, 3):
        guest = begun(engine, sources[first : first + 3], planned)
        owners += guest.state.hypotheses
        theirs = guest.passes(())
        for _ in range(first % 4):
            next(theirs, None)
        next(own)
        host.join(guest)
    for _ in own:
        pass
    assert [(written.tokens, written.ending) for written in owners] == alone
    # sources that the encoder reads in several calls, one of which is cancelled before the first
    # step; the order of lengths does not matter
    crowd, host = begun(engine, sources[:12], planned), begun(engine, sources[12:], planned)
    owners = [*crowd.state.hypotheses[1:], *host.state.hypotheses]
    crowd.state.cancel(0)
    host.join(crowd)
    for _ in host.passes(()):
        pass
    assert [(written.tokens, written.ending) for written in owners] == alone[1:]


@pytest.mark.parametrize(
    ("lengths", "pieces"),
    [
        ([5], [(0, 1, 5)]),
        ([4, 5, 5, 6], [(0, 4, 6)]),
        ([3] * 8 + [9], [(0, 8, 3), (8, 9, 9)]),
        ([9, 9, 9, 2, 2], [(0, 4, 9), (4, 5, 2)]),
    ],
)
def test_sources_of_like_length_are_encoded_together(lengths, pieces):
    """A row in no piece or in two, a piece that is cut, more padding than another call costs."""
    assert [(rows.start, rows.stop, width) for rows, width in alike(lengths)] == pieces


def stop(new):
    """End a text with a token that 11 divides."""
    return next((index + 1 for index, token in enumerate(new) if token % 11 == 0), None)
