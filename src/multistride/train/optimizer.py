"""The optimiser: AdamW on all weights, decay on matrices only, gradients clipped before each
step.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from torch.distributed.tensor import DTensor

from multistride.train.config import TrainingConfig


def adamw(model: nn.Module, settings: TrainingConfig) -> torch.optim.Optimizer:
    """AdamW (Loshchilov and Hutter 2019, arXiv 1711.05101) with the epsilon of arXiv 1706.03762,
    section 5.3.
    """
    return torch.optim.AdamW(
        parameter_groups(model, settings),
        lr=settings.learning_rate,
        betas=settings.adam_betas,
        eps=1e-9,
        fused=True,
    )


def clip_gradients(parameters: Iterable[nn.Parameter], settings: TrainingConfig) -> float:
    """Cut entries to `clip_value`, then the whole to `clip_norm` (0: not at all); returns the norm
    in between.
    """
    parameters = list(parameters)
    if settings.clip_value:
        torch.nn.utils.clip_grad_value_(parameters, settings.clip_value)
    norm = torch.nn.utils.clip_grad_norm_(parameters, settings.clip_norm or math.inf)
    return float(norm.full_tensor() if isinstance(norm, DTensor) else norm)


def parameter_groups(model: nn.Module, settings: TrainingConfig) -> list[dict[str, Any]]:
    """Matrices with weight decay; biases, norms and embeddings without. What is frozen is in
    neither.
    """
    embeddings = {
        id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)
    }
    decayed = [
        p for p in model.parameters() if p.requires_grad and p.dim() > 1 and id(p) not in embeddings
    ]
    chosen = {id(parameter) for parameter in decayed}
    others = [p for p in model.parameters() if p.requires_grad and id(p) not in chosen]
    return [
        {"params": decayed, "weight_decay": settings.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
