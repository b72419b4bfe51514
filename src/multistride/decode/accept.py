"""How much of a picked group is kept. An acceptor returns, for each row, a count from 1 to K."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Int
from torch import Tensor

from multistride.decode.pick import Picked

Acceptor = Callable[[Picked], Int[Tensor, "R"]]


def accept_all(picked: Picked) -> Int[Tensor, "R"]:
    """Keep every token of the group (fast mode; the paper)."""
    rows, group_size = picked.tokens.shape
    return torch.full((rows,), group_size, device=picked.tokens.device)
