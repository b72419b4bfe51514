"""Hidden states and attention weights of one pass, as transformers returns them.

Decoding never needs them, so the model does not return them: they are recorded here. Shapes: B
sentences, N slots, M keys, H heads, E width of a head, D hidden size.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from multistride.model.attention import CrossAttention, SelfAttention, shared_heads, weights_of


@dataclass
class Recorded:
    """Tensors recorded in one pass through a stack of layers, one per layer.

    `hidden` [B, N, D] are the inputs of the layers; the caller adds the final output. `attentions`
    and `cross` are [B, H, N, M].
    """

    hidden: list[Tensor] = field(default_factory=list)
    attentions: list[Tensor] = field(default_factory=list)
    cross: list[Tensor] = field(default_factory=list)


@contextmanager
def recording(
    layers: Iterable[nn.Module], hidden: bool, attentions: bool, before: int = 0
) -> Iterator[Recorded]:
    """Record one pass through `layers`; the first `before` keys of self-attention are left out.

    With `attentions` the weights are computed explicitly, which the fused kernel does not do, and
    the output is made of them, so that they have a gradient.
    """
    recorded, handles, explicit = Recorded(), [], []
    try:
        for layer in layers:
            if hidden:
                handles.append(
                    layer.register_forward_pre_hook(
                        lambda module, inputs: recorded.hidden.append(inputs[0])
                    )
                )
            if not attentions:
                continue
            for name, kind, kept, left_out in (
                ("attention", SelfAttention, recorded.attentions, before),
                ("cross", CrossAttention, recorded.cross, 0),
            ):
                module = getattr(layer, name, None)
                if isinstance(module, kind):
                    explicit.append((module, module.__dict__.get("attend")))
                    cap = getattr(module.attend, "cap", None)
                    # In place of the method of the class.
                    setattr(module, "attend", Explicit(kept, left_out, cap))  # noqa: B010
        yield recorded
    finally:
        for handle in handles:
            handle.remove()
        for module, own in explicit:
            del module.attend  # that of the class again
            if own is not None:
                setattr(module, "attend", own)  # noqa: B010


@dataclass
class Explicit:
    """Attention that keeps its weights (arXiv 1706.03762, equation 1)."""

    kept: list[Tensor]
    before: int
    cap: float | None

    def __call__(self, query: Tensor, key: Tensor, value: Tensor, mask: Any, rate: float) -> Tensor:
        """Return what `attend` returns, [B, H, N, E]."""
        weights, value = weights_of(query, key, mask, rate, self.cap), shared_heads(query, value)
        if not self.before:
            self.kept.append(weights)
            return weights @ value
        # The part that is handed out must be the one that the output is made of.
        first, rest = weights[..., : self.before], weights[..., self.before :]
        self.kept.append(rest)
        return first @ value[:, :, : self.before] + rest @ value[:, :, self.before :]
