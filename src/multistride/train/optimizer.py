"""The optimisers: AdamW on all weights, or Muon on the matrices of layers and AdamW on the rest.
Weight decay is for matrices only; gradients are clipped before each step.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from multistride.device import pick_precision
from multistride.model.attention import CrossAttention, SelfAttention
from multistride.model.transformer import DecoderLayer, EncoderLayer
from multistride.train.config import TrainingConfig

MOMENTUM = 0.95
NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
"""Coefficients of the quintic iteration: the steepest at zero of those that stay near one."""

ITERATIONS = 5
LIKE_ADAM = 0.2
"""Root mean square of the entries of a step as a share of the learning rate, as AdamW's is."""


def build_optimizer(model: nn.Module, settings: TrainingConfig) -> torch.optim.Optimizer:
    """The optimiser that `settings.optimizer` names, over the weights of `model` that are trained.

    AdamW is that of Loshchilov and Hutter 2019 (arXiv 1711.05101) with the epsilon of arXiv
    1706.03762, section 5.3.
    """
    parts = matrices_of_layers(model) if settings.optimizer == "muon" else {}
    return (Muon if parts else torch.optim.AdamW)(
        parameter_groups(model, settings, parts),
        lr=settings.learning_rate,
        betas=settings.adam_betas,
        eps=1e-9,
        fused=True,
    )


class Muon(torch.optim.AdamW):
    """Momentum made orthogonal for parameter groups that have `parts`, AdamW for the others.

    Source: Jordan et al. 2024 (kellerjordan.github.io/posts/muon) with the scale of Liu et al.
    2025, arXiv 2502.16982, equation 4, so that AdamW's learning rates serve. `parts` says for each
    weight of a group of which heights the matrices are that lie in it one above the other: queries,
    keys and values are three. `torch.optim.Muon`, the oracle of the tests, takes each weight for
    one matrix, steps one by one, and has no place for other weights.
    """

    def step(self, closure: Any = None) -> Any:
        """Take one step. The gradients of groups that have `parts` are used up (None)."""
        for group in self.param_groups:
            if "parts" in group:
                self._orthogonal_step(group)
        return super().step(closure)

    @torch.no_grad()
    def _orthogonal_step(self, group: dict[str, Any]) -> None:
        alike: dict[torch.Size, list[tuple[Tensor, Tensor]]] = defaultdict(list)
        for weights, parts in zip(group["params"], group["parts"], strict=True):
            if weights.grad is None:
                continue
            state = self.state[weights]
            if not state:
                # AdamW looks for `step` in every state that it loads.
                state.update(step=torch.zeros(()), momentum=torch.zeros_like(weights))
            state["step"] += 1
            state["momentum"].lerp_(weights.grad, 1 - MOMENTUM)
            step = weights.grad.lerp(state["momentum"], MOMENTUM)
            weights.mul_(1 - group["lr"] * group["weight_decay"])
            weights.grad = None
            for target, part in zip(weights.split(parts), step.split(parts), strict=True):
                alike[part.shape].append((target, part))
        for shape, pairs in alike.items():
            scale = group["lr"] * LIKE_ADAM * math.sqrt(max(shape))
            steps = orthogonal(torch.stack([part for _, part in pairs]))
            for (target, _), each in zip(pairs, steps, strict=True):
                target.add_(each, alpha=-scale)


def orthogonal(matrices: Tensor) -> Tensor:
    """Return matrices [N, A, B] with their singular values moved near 1 (0.7 to 1.2), float32.

    A Newton-Schulz iteration over all matrices at once, in bfloat16. Hardware that does not
    multiply bfloat16 takes float32: there the iteration was most of the time of an update.
    """
    first, second, third = NEWTON_SCHULZ
    tall = matrices.size(1) > matrices.size(2)
    precision = getattr(torch, pick_precision("auto", matrices.device))
    found = (matrices.mT if tall else matrices).to(precision)
    found = found / found.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    for _ in range(ITERATIONS):
        gram = found @ found.mT
        powers = torch.baddbmm(gram, gram, gram, beta=second, alpha=third)
        found = torch.baddbmm(found, powers, found, beta=first)
    return (found.mT if tall else found).float()


def clip_gradients(parameters: Iterable[nn.Parameter], settings: TrainingConfig) -> float:
    """Cut entries to `clip_value`, then the whole to `clip_norm` (0: not at all); returns the norm
    in between.
    """
    parameters = list(parameters)
    if settings.clip_value:
        torch.nn.utils.clip_grad_value_(parameters, settings.clip_value)
    norm = torch.nn.utils.clip_grad_norm_(parameters, settings.clip_norm or math.inf)
    return float(norm.full_tensor() if isinstance(norm, DTensor) else norm)


def matrices_of_layers(model: nn.Module) -> dict[int, tuple[int, ...]]:
    """Return the weights of the layers of encoder and decoder that Muon is for, by `id`: the
    heights of the matrices that lie in each, one above the other.
    """
    parts: dict[int, tuple[int, ...]] = {}
    for layer in model.modules():
        if not isinstance(layer, EncoderLayer | DecoderLayer):
            continue
        for module in layer.modules():
            if isinstance(module, SelfAttention):
                parts[id(module.input.weight)] = module.sizes
            elif isinstance(module, CrossAttention):
                both = module.key_value.out_features
                parts[id(module.key_value.weight)] = (both // 2, both // 2)
            elif isinstance(module, nn.Linear):
                parts.setdefault(id(module.weight), (module.out_features,))
    return parts


def parameter_groups(
    model: nn.Module,
    settings: TrainingConfig,
    parts: Mapping[int, tuple[int, ...]] = MappingProxyType({}),
) -> list[dict[str, Any]]:
    """Matrices with weight decay; biases, norms and embeddings without. What is frozen is in
    none. Matrices that have `parts` are a group of their own, with them.
    """
    embeddings = {
        id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)
    }
    decayed = [
        p for p in model.parameters() if p.requires_grad and p.dim() > 1 and id(p) not in embeddings
    ]
    chosen = {id(parameter) for parameter in decayed}
    others = [p for p in model.parameters() if p.requires_grad and id(p) not in chosen]
    stacked = [p for p in decayed if id(p) in parts]
    plain = [p for p in decayed if id(p) not in parts]
    orthogonal = {
        "params": stacked,
        "parts": [parts[id(p)] for p in stacked],
        "weight_decay": settings.weight_decay,
    }
    return [
        {"params": plain, "weight_decay": settings.weight_decay},
        {"params": others, "weight_decay": 0.0},
        *([orthogonal] if parts else []),
    ]
