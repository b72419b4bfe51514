"""The comparison of causal models: which batches are decoded, what is compared with what."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from multistride.errors import UserError

sys.path.append(str(Path(__file__).parents[3] / "benchmarks"))

from causal_rivals import Contender, Timed, check, fastest, measure, row_of

PROMPTS = [[1, 2], [3]]


def contender(name: str, program: str, together: int = 1, extra: int = 0) -> Contender:
    """Return a contender that writes each prompt backwards, and some tokens more."""
    return Contender(
        name,
        program,
        lambda batch, most: [[*prompt[::-1], *[0] * extra][:most] for prompt in batch],
        together,
    )


def test_batches_repeat_the_prompts():
    # Guards: 8 prompts together that are not the prompts decoded alone.
    assert contender("a", "multistride").batches(PROMPTS) == [[[1, 2]], [[3]]]
    assert contender("a", "multistride", 5).batches(PROMPTS) == [[[1, 2], [3], [1, 2], [3], [1, 2]]]


def test_every_text_is_that_of_k1_alone():
    # Guards: texts compared in the order of turns instead of that of prompts.
    own = [contender("K=1", "multistride"), contender("K=1, 5 together", "multistride", 5)]
    other = contender("genai", "genai", extra=1)
    timed = measure([*own, other], PROMPTS, most=8, rounds=2)
    check(timed, PROMPTS)
    assert timed[own[0]].texts == [[2, 1], [3]]
    assert timed[other].texts == [[2, 1, 0], [3, 0]]
    wrong = contender("exact", "multistride", extra=1)
    with pytest.raises(UserError, match="exact: text 1 is not that of K=1"):
        check(measure([*own, wrong], PROMPTS, most=8, rounds=1), PROMPTS)


def test_batches_are_compared_with_batches():
    # Guards: a batch of ours compared with a rival's single text, and with its slower way.
    ours, batch = contender("K=1", "multistride"), contender("K=1, 5 together", "multistride", 5)
    llama = contender("llama.cpp", "llama_cpp")
    genai, drafting = contender("genai", "genai"), contender("genai, drafts", "genai")
    together = contender("genai, 5 together", "genai", 5)
    four = [[5, 6], [7, 8]]
    timed = {
        ours: Timed([[0.5, 0.5], [0.5, 0.5]], four),
        batch: Timed([[1.0], [1.0]], four * 2),
        llama: Timed([[2.0, 2.0], [2.0, 2.0]], four),
        genai: Timed([[1.0, 1.0], [1.0, 1.0]], four),
        drafting: Timed([[0.5, 0.25], [0.5, 0.25]], four),
        together: Timed([[4.0], [4.0]], four * 2),
    }
    assert fastest(timed, "genai", 1) == "genai, drafts"
    rows = {each.name: row_of(each, timed) for each in (ours, batch)}
    assert rows["K=1"]["tokens_per_second"] == 4
    assert (rows["K=1"]["times_llama_cpp"], rows["K=1"]["times_genai"]) == (4, 0.75)
    assert rows["K=1, 5 together"]["times_genai"] == 4
    assert "times_llama_cpp" not in rows["K=1, 5 together"]
    assert rows["K=1"]["tokens_per_second_by_prompt"] == [4, 4]
