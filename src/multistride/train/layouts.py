"""Which slots a batch is trained on: every sentence draws a group size, and perhaps borders of its own."""

from __future__ import annotations

import torch
from jaxtyping import Int
from torch import Tensor

from multistride.data.batch import Batch
from multistride.groups import Slots, equal_sizes, sampled_sizes, teacher_forced
from multistride.train.config import GroupsConfig


def draw_slots(
    batch: Batch, config: GroupsConfig, start_token: int, generator: torch.Generator
) -> tuple[Slots, Int[Tensor, "B N"]]:
    """Slots and labels of a batch, each sentence with its own draw from `config`."""
    choices = torch.tensor(list(config.sizes))
    shares = torch.tensor(list(config.sizes.values()), dtype=torch.float)
    rows = len(batch.target_lengths)
    group_size = choices[torch.multinomial(shares, rows, replacement=True, generator=generator)]
    sizes = equal_sizes(batch.target_lengths, group_size)
    if config.random_borders > 0:
        cut = sampled_sizes(batch.target_lengths, group_size, generator)
        random = torch.rand(rows, generator=generator) < config.random_borders
        width = max(sizes.shape[1], cut.shape[1])
        sizes, cut = (torch.nn.functional.pad(part, (0, width - part.shape[1])) for part in (sizes, cut))
        sizes = torch.where(random[:, None], cut, sizes)
    return teacher_forced(batch.target, batch.target_lengths, sizes, start_token)


def fixed_slots(batch: Batch, group_size: int, start_token: int) -> tuple[Slots, Int[Tensor, "B N"]]:
    """Slots and labels of a batch with one group size for all."""
    sizes = equal_sizes(batch.target_lengths, group_size)
    return teacher_forced(batch.target, batch.target_lengths, sizes, start_token)
