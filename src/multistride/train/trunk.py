"""What the frozen layers of a model with adapters make of each training window, computed once.

Nothing that is trained acts on the clean slots of a window, so the state in which they enter the first layer with
adapters is the same in every epoch. It is kept in half precision, which what is trained reads it in anyway. How a
window was batched when it was first met changes it by rounding.

Shapes: B windows, N slots, D hidden size.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from multistride.groups import Slots
from multistride.model.transformer import Transformer


class TrunkStates:
    """States by window, as long as there is room for more of them."""

    def __init__(self, model: Transformer, megabytes: float) -> None:
        self._model, self._room = model, int(megabytes * 2**20)
        self._kept: dict[int, Tensor] = {}

    @torch.no_grad()
    def of(self, windows: list[int], lengths: Int[Tensor, "B"], slots: Slots) -> Float[Tensor, "B N D"]:
        """The states of the clean slots of these windows, `lengths` tokens each; zeros behind them."""
        width = slots.token.shape[1]
        if not all(window in self._kept for window in windows):
            states = self._model.before_adapters(slots).bfloat16()
            for row, window in enumerate(windows):
                self._keep(window, states[row, : int(lengths[row])])
            return states.float()
        kept = [self._kept[window] for window in windows]
        states = torch.zeros(len(windows), width, kept[0].shape[1], device=slots.token.device)
        for row, state in enumerate(kept):
            states[row, : len(state)] = state
        return states

    def _keep(self, window: int, state: Tensor) -> None:
        size = state.numel() * state.element_size()
        if window not in self._kept and size <= self._room:
            self._room -= size
            self._kept[window] = state.clone()
