"""The int8 engine's way for many rows says what its graphs say, and its memory moves as few rows as it must."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from multistride.decode.corpus import decode_corpus, source_batch
from multistride.decode.options import DecodeOptions
from multistride.groups import Slots

pytest.importorskip("onnxruntime", reason="the extra [int8] is not installed")
if not hasattr(torch.ops.onednn, "qlinear_pointwise"):
    pytest.skip("PyTorch has no 8-bit products of oneDNN here", allow_module_level=True)
from multistride.engines import int8, int8_onednn
from multistride.engines.int8_graphs import graphs_of
from multistride.engines.int8_memory import EncodedSource, gaps_filled, padding_bias
from multistride.engines.int8_ranges import Rounding, Roundings
from multistride.engines.onnx_graph import quantised

ALIKE = 0.02
"""How far results may be apart, as a share of their size: a rounding that falls the other way is carried on."""


@pytest.fixture(scope="module")
def engines(model):
    """The engine by graphs only, and one that calls oneDNN whenever it can."""
    roundings = Roundings(model)
    many_rows = int8_onednn.ManyRows(model, roundings)
    made = model.config, model.markov, graphs_of(model, roundings), model, 1
    return int8.Int8StepModel(*made), int8.Int8StepModel(*made, lambda: many_rows)


@pytest.fixture
def at_once(monkeypatch):
    """oneDNN from the first row on."""
    for name in ("MANY_OF_SOURCE", "MANY_SLOTS", "MANY_PICKED"):
        monkeypatch.setattr(int8, name, 0)


def off(found, expected):
    return float(np.abs(found - expected).mean() / np.abs(expected).mean())


def test_a_product_is_that_of_the_integers():
    # Guards: scales, zeros or biases that belong to another row or column; a stream that is not added to.
    generator = torch.Generator().manual_seed(1)
    weight, bias = torch.randn(48, 32, generator=generator), torch.randn(48, generator=generator).numpy()
    rounding = Rounding(0.02, np.linspace(0.5, 1.5, 32, dtype=np.float32))
    matrix = quantised(weight, rounding.shrink)
    rows = torch.randint(0, 256, (7, 32), generator=generator, dtype=torch.uint8)
    integers = (rows.numpy().astype(np.int32) - 128) @ matrix.integers.astype(np.int32)
    expected = integers * (matrix.scale * np.float32(rounding.step)) + bias
    product = int8_onednn.Product(matrix, bias, rounding)
    np.testing.assert_allclose(product(rows).numpy(), expected, rtol=1e-5, atol=1e-5)
    stream = torch.ones(7, 48)
    product.added(rows, stream)
    np.testing.assert_allclose(stream.numpy(), expected + 1, rtol=1e-5, atol=1e-5)
    halved = int8_onednn.Product(matrix, bias, rounding, factor=np.full(48, 0.5, np.float32))
    np.testing.assert_allclose(halved(rows).numpy(), expected / 2, rtol=1e-5, atol=1e-5)
    cut = int8_onednn.Product(matrix, bias, rounding, Rounding(0.05, np.ones(48), 0), "relu")
    written = np.clip(np.rint(expected / np.float32(0.05)), 0, 255)
    assert np.abs(cut(rows).numpy() - written).max() <= 1
    assert (cut(rows).numpy() == written).mean() > 0.99


@pytest.mark.parametrize("lowest", [-128, 0])
def test_rounding_is_to_the_nearest(lowest):
    # Guards: cutting off instead of rounding, which shifts everything by half a step; ends that wrap around.
    rows = torch.linspace(-5, 5, 999).reshape(3, 333)
    rounder = int8_onednn.Rounder(None, Rounding(0.03, np.ones(333, np.float32), lowest))
    expected = np.clip(np.rint(rows.numpy() / np.float32(0.03)) - lowest, 0, 255)
    assert np.abs(rounder(rows).numpy() - expected).max() <= 1
    assert (rounder(rows).numpy() == expected).mean() > 0.99


def test_sources_are_encoded_alike(engines, sources, at_once):
    # Guards: padding that is attended to, layers or heads in another order.
    batch = source_batch(sources[:9], engines[0].config)
    pairs = zip(*(engine.start(*batch).source.keys_values for engine in engines), strict=True)
    real = (torch.arange(batch[0].shape[1]) < batch[1][:, None])[:, None, :, None]
    for expected, found in pairs:
        for one, other in zip(expected, found, strict=True):
            assert off((other * real).numpy(), (one * real).numpy()) < ALIKE


@pytest.mark.parametrize("size", [2, 4, 8])
def test_steps_of_groups_are_alike(engines, sources, at_once, size):
    # Guards: slots written to another place of the cache, positions and reaches that differ, a source's padding.
    engine, quick = engines
    batch = source_batch(sources[:9], engine.config)
    memories = [each.start(*batch) for each in engines]
    generator = torch.Generator().manual_seed(size)
    tokens = np.ones((9, size), np.int64)
    for _ in range(4):
        expected, found = (each.step_even(tokens, m) for each, m in zip(engines, memories, strict=True))
        assert (found[0] == expected[0]).mean() > 0.9
        assert np.abs(found[1] - expected[1])[found[0] == expected[0]].mean() < 0.05
        tokens = torch.randint(4, 40, (9, size), generator=generator).numpy()
    assert quick is not engine


@pytest.mark.parametrize("group_size", [1, 2, 4, 8])
def test_texts_are_alike(engines, sources, at_once, group_size):
    # Guards: rows that leave the batch, groups that end in the middle, buffers that grow, in the way for many rows.
    options = DecodeOptions.made(limit_ratio=1.0, limit_extra=9, group_size=group_size, batch_size=24)
    expected, found = ([each.tokens for each in decode_corpus(engine, sources, options)] for engine in engines)
    assert sum(one == other for one, other in zip(expected, found, strict=True)) >= 22
    assert len({len(tokens) for tokens in found}) > 3, "the outputs are too alike to prove anything"


def test_few_rows_do_not_call_it(model, sources, monkeypatch):
    # Guards: a start-up that pays for matrices it does not need.
    def never():
        raise AssertionError("built for a single sentence")

    roundings = Roundings(model)
    engine = int8.Int8StepModel(model.config, model.markov, graphs_of(model, roundings), model, 1, never)
    memory = engine.start(*source_batch(sources[:1], model.config))
    engine.step_even(np.ones((1, 8), np.int64), memory)


@given(data=st.data())
def test_gaps_are_filled_only_where_that_is_all(data):
    # Guards: rows overwritten before they were read.
    count = data.draw(st.integers(1, 8))
    rows = np.array(data.draw(st.lists(st.integers(0, count - 1), min_size=1, max_size=9)))
    array = np.arange(count)
    moved = gaps_filled(rows)
    if moved is not None:
        array[moved[0]] = array[moved[1]]
        assert array[: len(rows)].tolist() == rows.tolist()
    elif sorted(set(rows.tolist())) == sorted(rows.tolist()) and (rows == np.arange(len(rows))).all():
        raise AssertionError("rows that stay where they are were moved")


@given(data=st.data())
def test_a_source_is_reordered(data):
    # Guards: a mask or keys that stay behind when rows leave.
    count = data.draw(st.integers(1, 6))
    real = np.arange(5)[None] < np.arange(1, count + 1)[:, None]
    keys = np.arange(count, dtype=np.float32)[:, None, None, None] * np.ones((1, 1, 5, 1), np.float32)
    source = EncodedSource({"real": real.astype(np.int32), "cross_key0": keys.copy(), "cross_value0": -keys})
    rows = np.arange(count)
    for _ in range(3):
        kept = data.draw(st.lists(st.integers(0, len(rows) - 1), min_size=1, max_size=6))
        rows, source = rows[kept], source.reordered(np.array(kept))
    [(found, values)] = source.keys_values
    assert found[:, 0, 0, 0].tolist() == rows.tolist()
    assert values[:, 0, 0, 0].tolist() == (-rows).tolist()
    if source.bias is not None:
        torch.testing.assert_close(source.bias, padding_bias(real[rows]))
    else:
        assert real[rows].all()


def test_a_whole_step_reads_slots(engines, sources):
    # Guards: a memory whose rows left in place, read by a step of slots that is bound to fewer rows.
    engine, _ = engines
    batch = source_batch(sources[:6], engine.config)
    memory, alone = engine.start(*batch), engine.start(batch[0][[0, 5, 2]], batch[1][[0, 5, 2]])
    token = torch.randint(4, 40, (6, 3), generator=torch.Generator().manual_seed(1))
    slots = Slots(token, torch.arange(3).expand(6, 3), torch.full((6, 3), 3), torch.zeros(6, 3, dtype=torch.long))
    engine.step(slots, memory)
    memory.reorder(torch.tensor([0, 5, 2]))
    fewer = Slots(*(field[[0, 5, 2]] for field in slots))
    engine.step(fewer, alone)
    later = fewer._replace(position=fewer.position + 3, group=fewer.group + 1)
    torch.testing.assert_close(engine.step(later, memory), engine.step(later, alone), atol=1e-4, rtol=0)
