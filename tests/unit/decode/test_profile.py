"""The price list of steps: complete, kept, and made again where it does not fit."""

import pytest
import torch

from multistride.engines.eager import EagerStepModel
from multistride.engines.timing import cached_costs, profile
from multistride.model.config import TransformerConfig
from multistride.model.transformer import Transformer


@pytest.fixture(scope="module")
def engine():
    torch.manual_seed(0)
    config = TransformerConfig(
        vocabulary_size=20,
        hidden_size=16,
        feedforward_size=16,
        heads=2,
        encoder_layers=1,
        decoder_layers=1,
        max_positions=32,
        group_sizes=(1, 2),
    )
    return EagerStepModel(Transformer(config))


@pytest.mark.parametrize("layout", ["sat", "lookahead"])
def test_every_size_and_batch_has_a_price(engine, layout):
    # Guards: a size that is free because nobody timed it.
    costs = profile(engine, "eager", layout, most_rows=3)
    assert list(costs.table) == [1, 2, 3]
    assert all(list(row) == [1, 2] and min(row.values()) > 0 for row in costs.table.values())


def test_it_is_timed_once(engine, tmp_path, monkeypatch):
    # Guards: a cache that is never read, or read for another model, engine, layout or batch.
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    said = []
    first = cached_costs(engine, "eager", "sat", 1, "abc", said.append)
    assert cached_costs(engine, "eager", "sat", 1, "abc", said.append) == first
    assert len(said) == 1
    for other in (
        ("int8", "sat", 1, "abc"),
        ("eager", "lookahead", 1, "abc"),
        ("eager", "sat", 2, "abc"),
    ):
        cached_costs(engine, *other, said.append)
    cached_costs(engine, "eager", "sat", 1, "abd", said.append)
    assert len(said) == 5
    for path in (tmp_path / "multistride/step-costs").iterdir():
        path.write_text("{")
    cached_costs(engine, "eager", "sat", 1, "abc", said.append)
    assert len(said) == 6


def test_a_cache_that_cannot_be_written_is_done_without(engine, tmp_path, monkeypatch):
    # Guards: decoding that fails because a home directory is read-only.
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert cached_costs(engine, "eager", "sat", 1, "abc").table[1][1] > 0
