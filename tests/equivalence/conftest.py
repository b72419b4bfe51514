"""A model and sources that every equivalence is shown on."""

import pytest
import torch
from tiny_models import small_model

from multistride.model.transformer import Transformer


@pytest.fixture(params=["pre", "post"], scope="module")
def model(request):
    """A small random model whose outputs vary, end at different lengths, and do use the reach."""
    return small_model(norm=request.param)


@pytest.fixture(scope="module")
def forced_model(model):
    """The model of all equivalences, whose targets are forced to begin with token 7."""
    config = model.config.model_copy(update={"first_token": 7})
    forced = Transformer(config).eval()
    forced.load_state_dict(model.state_dict())
    return forced


@pytest.fixture(params=["pre", "post", "native"], scope="module")
def int8_model(request):
    """The same, and one with sizes that the native kernels take."""
    if request.param == "native":
        return small_model(hidden_size=64, feedforward_size=128, heads=4)
    return small_model(norm=request.param)


@pytest.fixture(scope="module")
def sources():
    generator = torch.Generator().manual_seed(5)
    lengths = torch.randint(0, 12, (24,), generator=generator).tolist()
    return [torch.randint(5, 40, (length,), generator=generator).tolist() for length in lengths]
