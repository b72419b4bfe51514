"""What the int8 engine keeps of a batch moves as few rows as it must, and none of them wrongly."""

import gc
from contextlib import suppress

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from multistride.decode.corpus import source_batch
from multistride.groups import Slots

pytest.importorskip("onnxruntime", reason="the extra [int8] is not installed")
from multistride.engines.int8 import engine as int8
from multistride.engines.int8.buffers import EncodedSource, gaps_filled
from multistride.engines.int8.memory import Int8Memory


def test_a_memory_that_ctrl_c_leaves_half_made_goes_quietly(monkeypatch):
    # Guards: a traceback on stderr, of a memory that returns buffers which it never had.
    class Interrupted:
        def take(self, rows, length):
            raise KeyboardInterrupt

    said = []
    monkeypatch.setattr("sys.unraisablehook", said.append)
    for make in (
        lambda: Int8Memory(Interrupted(), 1, EncodedSource({})),
        lambda: Int8Memory.__new__(Int8Memory),
    ):
        with suppress(KeyboardInterrupt):
            make()
        gc.collect()
    assert not said


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
    else:
        assert (rows != np.arange(len(rows))).any(), "rows that stay where they are were moved"


@given(data=st.data())
def test_a_source_is_reordered(data):
    # Guards: a mask or keys that stay behind when rows leave.
    count = data.draw(st.integers(1, 6))
    real = np.arange(5)[None] < np.arange(1, count + 1)[:, None]
    keys = np.arange(count, dtype=np.float32)[:, None, None, None] * np.ones(
        (1, 1, 5, 1), np.float32
    )
    source = EncodedSource(
        {"real": real.astype(np.int32), "cross_key0": keys.copy(), "cross_value0": -keys}
    )
    rows = np.arange(count)
    for _ in range(3):
        kept = data.draw(st.lists(st.integers(0, len(rows) - 1), min_size=1, max_size=6))
        rows, source = rows[kept], source.reordered(np.array(kept))
    found = {name: value.array for name, value in source.values.items()}
    assert found["cross_key0"][:, 0, 0, 0].tolist() == rows.tolist()
    assert found["cross_value0"][:, 0, 0, 0].tolist() == (-rows).tolist()
    assert found["real"].tolist() == real[rows].astype(int).tolist()


def test_a_step_after_rows_left(model, sources):
    # Guards: a memory whose rows left in place, read by a step of slots that is bound to fewer
    # rows.
    engine = int8.quantise(model, threads=1)
    batch = source_batch(sources[:6], engine.config)
    memory, alone = engine.start(*batch), engine.start(batch[0][[0, 5, 2]], batch[1][[0, 5, 2]])
    token = torch.randint(4, 40, (6, 3), generator=torch.Generator().manual_seed(1))
    slots = Slots(
        token,
        torch.arange(3).expand(6, 3),
        torch.full((6, 3), 3),
        torch.zeros(6, 3, dtype=torch.long),
    )
    engine.step(slots, memory)
    memory.reorder(torch.tensor([0, 5, 2]))
    fewer = Slots(*(field[[0, 5, 2]] for field in slots))
    engine.step(fewer, alone)
    later = fewer._replace(position=fewer.position + 3, group=fewer.group + 1)
    torch.testing.assert_close(
        engine.step(later, memory), engine.step(later, alone), atol=1e-4, rtol=0
    )
