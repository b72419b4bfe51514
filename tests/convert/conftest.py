"""Where most checkpoints of these tests are saved."""

import pytest
import torch
from originals import small_tokenizer


@pytest.fixture
def letters(tmp_path):
    """Where a checkpoint is saved, with a tokenizer in it; `size` entries."""
    size = small_tokenizer(
        tmp_path / "theirs", unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    )
    return tmp_path / "theirs", size


@pytest.fixture(autouse=True)
def seeded():
    """Random weights that are the same whatever ran before."""
    torch.manual_seed(1)
