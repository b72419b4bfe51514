"""Draft heads in the native kernels (`draft_head.c`)."""

from __future__ import annotations

import ctypes
import math
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from multistride.decode.draft_head import LEAST, DraftHead, Guessed
from multistride.decode.draft_tree import DraftTree
from multistride.engines.int8.native import library
from multistride.engines.int8.native.library import PANEL, VECTOR, Arrays
from multistride.engines.int8.native.stored import Array, aligned, in_panels, named

NEVER = -math.inf
"""The bias of outputs that belong to no token: none is picked, however small the others are."""


class NativeDraftHead(DraftHead):
    """A draft head whose layers the kernels compute, all drafts in one call, or a whole tree."""

    def __init__(self, tensors: dict[str, Tensor], threads: int) -> None:
        super().__init__(tensors)
        self._threads = threads
        read = {name: tensor.numpy() for name, tensor in tensors.items()}
        arrays = {name: read[name] for name in ("table", "gain", "into", "keep")}
        arrays["table_scale"] = read["table.scale"]
        arrays |= named("widen", _linear(read, "widen", "widen.bias"))
        read["narrow"] = np.pad(read["narrow"], ((0, 0), (0, -len(read["widen"]) % PANEL)))
        arrays |= named("narrow", _linear(read, "narrow", "narrow.bias"))
        arrays |= named("output", _linear(read, "table", "bias", NEVER))
        self._arrays = {name: _in_place(each) for name, each in arrays.items()}
        known, hidden = tensors["table"].shape
        self._head = library.Head(
            **{name: self._place(name) for name in library.HEAD_TABLES},
            **{name: self._layer(name) for name in library.HEAD_LAYERS},
            hidden=hidden,
            known=known,
        )

    @staticmethod
    def computes(head: DraftHead) -> bool:
        """Return True for heads that the kernels compute; others draft in a way of their own, or
        have a hidden size that is no multiple of 16.
        """
        return type(head) is DraftHead and head.tensors["table"].shape[1] % VECTOR == 0

    def guess(
        self,
        states: Float[Tensor, "R D"],
        written: Int[Tensor, "R"],
        count: int,
        least: float = 0.0,
    ) -> Guessed:
        """Return up to `count` drafts behind the tokens `written`, which were picked from
        `states`.
        """
        rows = len(states)
        read = np.ascontiguousarray(states.numpy(), np.float32)
        index = self.index_of(written).numpy()
        drafts, shares = np.zeros((count, rows), np.int64), np.zeros((count, rows), np.float32)
        head, kernels = ctypes.addressof(self._head), library.kernels()
        scratch = aligned(kernels.ms_draft_scratch(head, rows, self._threads))
        drafting = library.Drafting(
            *(each.ctypes.data for each in (read, index, drafts, shares, scratch)),
            math.log(least) if least > 0 else -math.inf,
            rows,
            count,
        )
        kernels.ms_draft(head, ctypes.addressof(drafting), self._threads)
        made = slice(drafting.made)
        tokens, chances = torch.from_numpy(drafts[made].T), torch.from_numpy(shares[made].T)
        return Guessed(self._tokens[tokens], chances.exp())

    def grow(
        self, state: Float[Tensor, "D"], written: int, count: int, least: float = 0.0
    ) -> DraftTree:
        """Return up to `count` drafts behind the token `written`, which was picked from `state`."""
        read = np.ascontiguousarray(state.numpy(), np.float32)
        drafts, parents = np.zeros(count, np.int64), np.zeros(count, np.int32)
        shares = np.zeros(count, np.float32)
        head, kernels = ctypes.addressof(self._head), library.kernels()
        scratch = aligned(kernels.ms_grow_scratch(head, count, self._threads))
        growing = library.Growing(
            *(each.ctypes.data for each in (read, drafts, parents, shares, scratch)),
            int(self.index_of(torch.tensor([written]))),
            math.log(max(least, LEAST)),
            count,
        )
        kernels.ms_grow(head, ctypes.addressof(growing), self._threads)
        made = slice(growing.made)
        tokens = self._tokens[torch.from_numpy(drafts[made])].tolist()
        return DraftTree(tokens, parents[made].tolist(), np.exp(shares[made]).tolist())

    def _place(self, name: str) -> int:
        return int(self._arrays[name].ctypes.data)

    def _layer(self, name: str) -> Any:
        panels, fours, outputs, _ = self._arrays[f"{name}.weights"].shape
        places = {part: self._place(f"{name}.{part}") for part in ("weights", "scale", "bias")}
        return library.Linear(**places, inputs=4 * fours, outputs=panels * outputs)


def _linear(read: Arrays, weight: str, bias: str, lowest: float = 0.0) -> Arrays:
    """Return a layer as the kernels read it (`linear.h`), its outputs filled up to whole panels;
    those that this adds are `lowest`.
    """
    more = -len(read[weight]) % PANEL
    stored = np.pad(read[weight].astype(np.int16), ((0, more), (0, 0))) + 128
    return {
        "weights": in_panels(stored.astype(np.uint8).T),
        "scale": np.pad(read[f"{weight}.scale"], (0, more)).reshape(-1, 1, PANEL),
        "bias": np.pad(read[bias], (0, more), constant_values=lowest),
    }


def _in_place(array: Array) -> Array:
    """Return a copy that begins where vectors do."""
    memory = aligned(array.nbytes)
    memory[:] = np.frombuffer(np.ascontiguousarray(array).tobytes(), np.uint8)
    return memory.view(array.dtype).reshape(array.shape)
