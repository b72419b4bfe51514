"""Matrices that came in 4 bits are told apart from others, and kept as they are."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from multistride.engines.int8.steps import BLOCK, HALF, NEAR, stepped


def restored(found):
    shared = (each.astype(np.float32).repeat(BLOCK, 1) for each in (found.step, found.least))
    step, least = shared
    return found.integers * step + least


def drawn(seed, outputs=70, blocks=3, most=15):
    """Integers, steps and least weights, in 16 bits as files hold them."""
    generator = torch.Generator().manual_seed(seed)
    integers = torch.randint(0, most + 1, (outputs, blocks, BLOCK), generator=generator)
    step = (0.001 + 0.05 * torch.rand(outputs, blocks, 1, generator=generator)).half().float()
    least = (-0.5 * torch.rand(outputs, blocks, 1, generator=generator)).half().float()
    return integers, step, least


def matrix_of(integers, step, least):
    return (integers * step + least).flatten(1)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 9999))
def test_steps_and_least_weights_are_found_to_the_bit(seed):
    # As Q4_1 holds them: of every block the least weight is a 0 and the largest a 15.
    integers, step, least = drawn(seed)
    integers[..., 0], integers[..., 1] = 0, 15
    found = stepped(matrix_of(integers, step, least))
    assert found.integers.tolist() == integers.flatten(1).tolist()
    assert found.step.tolist() == step[..., 0].numpy().astype(np.float16).tolist()
    assert found.least.tolist() == least[..., 0].numpy().astype(np.float16).tolist()


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 9999), st.integers(0, 15))
def test_blocks_that_do_not_take_all_values(seed, most):
    # As Q4_0 and Q4_K hold them: a block may lack its least or largest value, or be all alike.
    weight = matrix_of(*drawn(seed, most=most))
    found = stepped(weight)
    far = np.abs(restored(found) - weight.numpy())
    near = NEAR * found.step.astype(np.float32).repeat(BLOCK, 1) + HALF * np.abs(weight.numpy())
    assert (far <= near + 1e-7).all()


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
def test_weights_that_were_kept_in_16_bits(kind):
    # Told apart as well where rounding moved them by less than a part of a step.
    integers, step, least = drawn(3)
    weight = matrix_of(integers, step.clamp(min=0.02), least).to(kind)
    found = stepped(weight)
    if found is not None:
        far = np.abs(restored(found) - weight.float().numpy())
        near = NEAR * found.step.astype(np.float32).repeat(BLOCK, 1)
        assert (far <= near + HALF * np.abs(weight.float().numpy()) + 1e-7).all()


@pytest.mark.parametrize(
    "weight",
    [
        torch.randn(80, 96, generator=torch.Generator().manual_seed(1)),
        torch.randint(0, 31, (80, 96), generator=torch.Generator().manual_seed(1)).float(),
        torch.full((80, 96), float("nan")),
        torch.zeros(80, 40),
    ],
    ids=["floats", "31 values", "no numbers", "blocks that are not whole"],
)
def test_other_matrices_are_left_alone(weight):
    assert stepped(weight) is None


def test_one_block_that_is_none_of_it_leaves_the_matrix_alone():
    weight = matrix_of(*drawn(4))
    assert stepped(weight) is not None
    weight[69, 95] += 0.4 * drawn(4)[1][69, 2, 0]
    assert stepped(weight) is None


@pytest.mark.parametrize("kind", ["Q4_0", "Q4_1", "Q4_K"])
def test_what_files_of_4_bits_hold(kind):
    # Guards: negative steps (Q4_0), and those that are products of 6 and 16 bits (Q4_K).
    gguf = pytest.importorskip("gguf", reason="the extra [hf] is not installed")
    quantisation = gguf.GGMLQuantizationType[kind]
    generator = np.random.default_rng(5)
    if kind == "Q4_K":  # 256 weights: two numbers of 16 bits, 12 bytes of 6 bits, 128 of 4
        numbers = generator.uniform(0.0005, 0.002, (80, 2, 2)).astype(np.float16)
        others = generator.integers(0, 256, (80, 2, 140), np.uint8)
        stored = np.concatenate([numbers.view(np.uint8), others], 2).reshape(80, -1)
    else:
        drawn = generator.normal(size=(80, 512)).astype(np.float32)
        stored = gguf.quants.quantize(drawn, quantisation)
    weight = gguf.quants.dequantize(stored, quantisation)
    found = stepped(torch.from_numpy(weight.copy()))
    near = NEAR * found.step.astype(np.float32).repeat(BLOCK, 1) + HALF * np.abs(weight)
    assert (np.abs(restored(found) - weight) <= near + 1e-7).all()


@pytest.mark.parametrize("kind", ["Q5_0", "Q8_0"])
def test_what_files_of_more_bits_hold(kind):
    gguf = pytest.importorskip("gguf", reason="the extra [hf] is not installed")
    quantisation = gguf.GGMLQuantizationType[kind]
    drawn = np.random.default_rng(5).normal(size=(80, 512)).astype(np.float32)
    weight = gguf.quants.dequantize(gguf.quants.quantize(drawn, quantisation), quantisation)
    assert stepped(torch.from_numpy(weight.copy())) is None
