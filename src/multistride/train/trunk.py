"""Cached outputs of the frozen layers of a model with adapters, one per training window.

Nothing that is trained acts on the clean slots of a window, so the state in which they enter the
first layer with adapters is the same in every epoch. It is kept in half precision, which what is
trained reads it in anyway.

Each window is computed alone and without dropout: products of other sizes round otherwise, so what
came of a window beside its neighbours would depend on the batch that met it first, and a resumed
run meets windows in other batches.

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
    def of(
        self, windows: list[int], lengths: Int[Tensor, "B"], slots: Slots
    ) -> Float[Tensor, "B N D"]:
        """The states of the clean slots of these windows, `lengths` tokens each; zeros behind them.

        What is returned of a window depends on nothing but the window, kept or not.
        """
        training = self._model.training
        self._model.eval()
        rows = enumerate(zip(windows, lengths.tolist(), strict=True))
        found = [self._state(window, _alone(slots, row, length)) for row, (window, length) in rows]
        self._model.train(training)
        states = torch.zeros(
            *slots.token.shape, self._model.config.hidden_size, device=slots.token.device
        )
        for row, state in enumerate(found):
            states[row, : len(state)] = state
        return states

    def _state(self, window: int, slots: Slots) -> Tensor:
        if window in self._kept:
            return self._kept[window]
        state = self._model.before_adapters(slots)[0].bfloat16()
        size = state.numel() * state.element_size()
        if size <= self._room:
            self._room -= size
            self._kept[window] = state
        return state


def _alone(slots: Slots, row: int, length: int) -> Slots:
    """The slots of one row without its padding."""
    return Slots(*(field[row : row + 1, :length] for field in slots))
