"""Random draft heads."""

import torch

from multistride.decode.draft_head import quantised


def head_tensors(vocabulary, width, inner=24, seed=1):
    """The tensors of a random head that knows half of the tokens."""
    torch.manual_seed(seed)
    tokens = torch.randperm(vocabulary)[: vocabulary // 2].int()
    tensors = {"tokens": tokens, "bias": torch.randn(len(tokens))}
    shapes = {
        "table": (len(tokens), width),
        "widen": (inner, 2 * width),
        "narrow": (width, inner),
    }
    for name, shape in shapes.items():
        tensors[name], tensors[f"{name}.scale"] = quantised(torch.randn(shape) / 6)
    tensors |= {name: torch.rand(width) for name in ("gain", "into", "keep", "narrow.bias")}
    return tensors | {"widen.bias": torch.randn(inner)}
