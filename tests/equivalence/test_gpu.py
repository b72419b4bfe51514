"""The GPU engine writes what the eager one writes: its static memory on the CPU, recorded graphs
where a GPU is."""

import copy

import pytest
import torch
from elsewhere import Elsewhere, ElsewhereEngine
from layouts import LAYOUTS, both, moved

from multistride.decode.corpus import decode_corpus
from multistride.decode.options import DecodeOptions
from multistride.engines.eager import EagerStepModel
from multistride.engines.gpu.cache import Arenas, GpuMemory, Size, bucket
from multistride.engines.gpu.engine import GpuStepModel, check_gpu, recorded
from multistride.engines.open import open_engine
from multistride.errors import UsageError
from multistride.groups import Slots
from multistride.model.config import TransformerConfig
from multistride.model.transformer import Transformer

WAYS = [
    {"group_size": 1},
    {"group_size": 3},
    {"group_size": 8},
    {"group_size": 4, "mode": "exact"},
    {"group_size": 4, "mode": "exact", "drafts": "all-masks"},
    {"group_size": 4, "mode": "adaptive", "threshold": 0.2},
    {"group_size": 2, "beam": 3},
    {"group_size": 2, "temperature": 1.0, "seed": 3},
]
MARKOV_WAYS = [
    *(way for way in WAYS[:6] if way != {"group_size": 8}),
    {"group_size": 4},
    {"group_size": 4, "mode": "exact", "drafts": "text"},
    {"group_size": 4, "mode": "exact", "temperature": 1.0, "seed": 3},
    {"group_size": 4, "mode": "adaptive", "policy": "phase", "threshold": 0.2},
    {"group_size": 4, "policy": "phase"},
    {"group_size": 4, "temperature": 1.0, "seed": 3},
    {"group_size": 4, "beam": 3},
    {"group_size": 4, "group_beam": 3},
    {"group_size": 4, "no_repeat_ngram": 2},
]
needs_cuda = pytest.mark.skipif(
    not torch.cuda.is_available(), reason="PyTorch sees no CUDA device here"
)


@pytest.fixture(scope="module")
def markov_model():
    torch.manual_seed(5)
    sizes = {
        "hidden_size": 32,
        "feedforward_size": 64,
        "heads": 4,
        "encoder_layers": 1,
        "decoder_layers": 2,
    }
    config = TransformerConfig(
        vocabulary_size=60, group_sizes=(1, 2, 4), markov_rank=4, max_positions=64, **sizes
    )
    transformer = Transformer(config).eval()
    with torch.no_grad():
        for parameter in transformer.parameters():
            parameter.mul_(1.5)
        transformer.reach.beyond_one.weight[1:].normal_(std=0.5)
        transformer.markov.following.normal_()
    return transformer


def decoded(engine, sources, **choices):
    options = DecodeOptions(**{"batch_size": 12, "limit_ratio": 3.0, "limit_extra": 40, **choices})
    return decode_corpus(engine, sources, options)


def assert_same(expected, found):
    assert [one.tokens for one in found] == [one.tokens for one in expected]
    for one, other in zip(expected, found, strict=True):
        assert (one.ending, one.steps) == (other.ending, other.steps)
        assert other.log_probabilities == pytest.approx(one.log_probabilities, abs=1e-4)


@pytest.mark.parametrize("choices", WAYS, ids=str)
def test_static_memory_equals_growing_memory(model, sources, choices):
    # Guards: columns written over, slots of the batch before that are seen, rows mixed up as others
    # leave or repeat.
    engine = GpuStepModel(model)
    expected = decoded(EagerStepModel(model), sources, **choices)
    assert_same(expected, decoded(engine, sources, **choices))
    assert_same(
        expected, decoded(engine, sources, **choices)
    )  # now on arenas that hold another batch
    assert max(len(one.tokens) for one in expected) > 32, "no arena had to grow"
    assert len({len(one.tokens) for one in expected}) > 3, "no row left before another"


@pytest.mark.parametrize("choices", MARKOV_WAYS, ids=str)
def test_markov_head(markov_model, sources, choices):
    # Guards: the first token of a group corrected, candidates in another order than on the CPU.
    expected = decoded(EagerStepModel(markov_model), sources, **choices)
    assert_same(expected, decoded(GpuStepModel(markov_model), sources, **choices))


@pytest.mark.parametrize("choices", MARKOV_WAYS, ids=str)
def test_logits_are_not_mixed_with_what_is_on_the_host(markov_model, sources, choices):
    # Guards: ways that only fail where a GPU is, as with a Markov head that was left on the host.
    expected = decoded(EagerStepModel(markov_model), sources, **choices)
    with Elsewhere():
        found = decoded(ElsewhereEngine(markov_model), sources, **choices)
    assert_same(expected, found)


def test_the_markov_head_is_where_the_logits_are(markov_model):
    engine = GpuStepModel(copy.deepcopy(markov_model).to("meta"))
    assert {each.device.type for each in engine.markov.parameters()} == {engine.device.type}
    assert {each.dtype for each in engine.markov.parameters()} == {torch.float32}


@pytest.mark.parametrize(
    ("dtype", "most"), [(torch.float32, 1e-5), (torch.bfloat16, 0.1)], ids=["float32", "bfloat16"]
)
@pytest.mark.parametrize("name", LAYOUTS)
def test_static_memory_holds_every_layout(name, dtype, most):
    # Guards: heads of keys that are fewer, positions that distances need, angles in 8 bits.
    model = moved(name)
    for expected, found in both(model, GpuStepModel(model, dtype)):
        assert float((found - expected).abs().mean() / expected.abs().mean()) < most


def test_several_batches_at_once(model, sources):
    # Guards: two batches that share an arena, as streams that are read in turns would.
    engine = GpuStepModel(model)
    source, lengths = torch.tensor([[5, 6, 2]]), torch.tensor([3])
    first, second = engine.start(source, lengths), engine.start(source, lengths)
    assert first.arena is not second.arena
    slots = Slots(*(torch.tensor([[value]]) for value in (1, 0, 1, 0)))
    assert torch.equal(engine.step(slots, first), engine.step(slots, second))
    arena = first.arena
    del first
    assert engine.start(source, lengths).arena is arena


@pytest.mark.parametrize(
    ("count", "smallest", "size"), [(0, 1, 1), (1, 1, 1), (3, 1, 4), (5, 16, 16), (17, 16, 32)]
)
def test_buckets(count, smallest, size):
    # Guards: an arena that is too small by one, or one for every size.
    assert bucket(count, smallest) == size


def test_rows_move_to_smaller_arenas():
    # Guards: a batch that costs what it cost when it was full; a bucket that is left although it
    # fits.
    config = TransformerConfig(
        vocabulary_size=20, hidden_size=8, feedforward_size=8, heads=1, decoder_layers=1
    )
    memory = GpuMemory(Arenas(config, torch.device("cpu"), torch.float32), 8, 5)
    memory.announce(
        Slots(*(torch.zeros(8, 2, dtype=torch.long) for _ in range(3)), torch.zeros(8, 2).long())
    )
    key = memory.arena.past[0][0]
    key[:, 0, :2, 0] = torch.arange(8.0)[:, None]
    memory.reorder(torch.tensor([7, 2, 3, 5, 1]))
    assert memory.arena.size == Size(8, 32, 16)
    memory.reorder(torch.tensor([0, 3]))
    assert memory.arena.size == Size(2, 32, 16)
    assert memory.arena.past[0][0][:, 0, 0, 0].tolist() == [7.0, 5.0]
    memory.reorder(torch.tensor([1, 1, 0]))
    assert memory.arena.past[0][0][:3, 0, 1, 0].tolist() == [5.0, 5.0, 7.0]


def test_without_a_gpu_it_says_what_is_there(model, monkeypatch):
    # Guards: an error from deep inside CUDA; a GPU engine that silently runs on the CPU.
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(
        UsageError,
        match=r"PyTorch \S+ sees no CUDA device here, only the CPU: choose --engine auto",
    ):
        open_engine(model, "gpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Some GPU")
    with pytest.raises(
        UsageError, match=r"the model is on cpu: choose --device cuda \(Some GPU is there\)"
    ):
        check_gpu(model)


def test_nothing_is_recorded_on_the_cpu():
    # Guards: a step computed once and repeated for ever.
    counted = []
    compute = recorded(lambda: counted.append(1) or torch.zeros(1), torch.device("cpu"))
    compute(), compute()
    assert len(counted) == 2


@needs_cuda
@pytest.mark.parametrize("name", ["model", "markov_model"])
@pytest.mark.parametrize("choices", MARKOV_WAYS, ids=str)
def test_recorded_steps_equal_eager_steps(request, name, sources, choices):
    # Guards: a graph that reads another address than it was recorded with; a result read before it
    # is written.
    model = request.getfixturevalue(name)
    if "group_beam" in choices and model.markov is None:
        pytest.skip("a group is searched with a Markov head only")
    engine = GpuStepModel(copy.deepcopy(model).cuda(), torch.float32)
    expected = decoded(EagerStepModel(model), sources, **choices)
    for _ in range(2):
        assert [one.tokens for one in decoded(engine, sources, **choices)] == [
            one.tokens for one in expected
        ]


@needs_cuda
def test_half_precision_is_close(model, sources):
    # Guards: sums in half precision where float32 was meant.
    there = Transformer(model.config)
    there.load_state_dict(model.state_dict())
    engine = open_engine(there.cuda(), "auto")
    assert (engine.name, engine.precision) in {("gpu", "bfloat16"), ("gpu", "float16")}
    expected, found = decoded(EagerStepModel(model), sources), decoded(engine, sources)
    first = [one.tokens[:1] == other.tokens[:1] for one, other in zip(expected, found, strict=True)]
    assert sum(first) > 0.8 * len(first)
