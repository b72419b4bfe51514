import pytest
import torch

from multistride.model.config import TransformerConfig
from multistride.model.packing import SMALLEST, PackedLinear, can_pack, projection
from multistride.model.transformer import Transformer

ROWS = [(1,), (4,), (3, 5), (40,), (0,)]


@pytest.mark.parametrize("shape", ROWS, ids=str)
@pytest.mark.parametrize("bias", [True, False])
def test_a_packed_product_is_the_product(shape, bias):
    # Guards: rows or columns in another order after packing, a bias lost.
    torch.manual_seed(0)
    layer = torch.nn.Linear(48, 70, bias=bias)
    rows = torch.randn(*shape, 48)
    with torch.inference_mode():
        found = PackedLinear(layer.weight, layer.bias)(rows)
        torch.testing.assert_close(found, layer(rows), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("tied", [True, False])
def test_a_large_output_matrix_is_packed(tied):
    # Guards: the matrix of the wrong side, and packing that silently never happens.
    torch.manual_seed(0)
    config = TransformerConfig(
        vocabulary_size=SMALLEST // 32, hidden_size=32, feedforward_size=32, heads=2,
        encoder_layers=1, decoder_layers=1, max_positions=8, tie_embeddings=tied,
    )  # fmt: skip
    model = Transformer(config).eval()
    hidden = torch.randn(2, 3, 32)
    packed = projection(model)
    assert isinstance(packed, PackedLinear)
    with torch.inference_mode():
        torch.testing.assert_close(packed(hidden), model.project(hidden), atol=1e-5, rtol=1e-5)


def test_what_is_not_packed():
    # Guards: small matrices made slower, and precisions the kernel does not have.
    assert not can_pack(torch.zeros(8, 8))
    assert not can_pack(torch.zeros(SMALLEST // 8, 8, dtype=torch.float64))
