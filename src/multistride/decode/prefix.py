"""A given beginning: read in one pass, as if the sentence had written it itself, K tokens a step.

The slots are those of `score` (groups.teacher_forced), so the log-probabilities are too. A forced
first token is a group of its own. Where the prefix is no multiple of K its last group is kept in
part, and the groups after it begin where it ends.

Shapes: R rows, P tokens of the prefix, V vocabulary.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from multistride.decode.markov import distribution
from multistride.decode.pick import Picked
from multistride.decode.step import M, StepModel
from multistride.groups import NO_LABEL, previous_in_group, sizes_behind, teacher_forced


class Prefix(NamedTuple):
    """Its tokens and their log-probabilities [R, P], the groups it was laid out in, and the tokens
    of the last.
    """

    picked: Picked
    groups: int
    unread: int


def read_prefix(
    model: StepModel[M], memory: M, rows: int, tokens: tuple[int, ...], group_size: int
) -> Prefix:
    """Let the memory of `rows` sentences begin with `tokens` (at least one)."""
    target = torch.tensor(tokens).expand(rows, -1)
    lengths = torch.full((rows,), len(tokens))
    sizes = sizes_behind(model.config.forced_tokens, lengths, group_size)
    slots, labels = teacher_forced(target, lengths, sizes, model.config.start_token)
    logits = model.step(slots, memory)
    asked = labels != NO_LABEL
    previous = previous_in_group(slots, labels)[asked]
    values = distribution(model.config, model.markov)(logits[asked.to(logits.device)], previous)
    chosen = values.gather(1, labels[asked][:, None]).view(rows, -1)
    earlier = int(sizes[0, :-1].sum())
    return Prefix(Picked(target, chosen), sizes.shape[1], len(tokens) - earlier)
