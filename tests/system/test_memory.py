"""No way of decoding needs much more memory than K=1, by the script that measures it."""

import importlib.util
from pathlib import Path

import pytest

import multistride

pytestmark = pytest.mark.system

SCRIPT = Path(__file__).parents[2] / "examples/memory.py"


@pytest.mark.parametrize(
    "way",
    [
        "fast, K=8",
        "exact, K=4",
        "speculative sampling, K=4",
        "no repeated 3-gram, K=4",
        "beam 4, K=4",
    ],
)
def test_no_way_needs_much_more_memory_than_k1(way):
    # Guards: logits of two steps kept, graphs kept by a head that was trained, drafts that pile up
    # in the cache.
    specification = importlib.util.spec_from_file_location("memory", SCRIPT)
    memory = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(memory)
    [(_, _, _, ratio)] = memory.measure(
        multistride.load(engine="eager"), 12, 24, {way: memory.WAYS[way]}
    )
    assert ratio <= 1.3
