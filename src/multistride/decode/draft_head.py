"""Draft heads: a small network that drafts from the last state of a causal model.

The state that a model maps to its next token also says something of the tokens behind it. A head
reads that state and the token just written, makes of both an estimate of the next state, picks the
most probable token by it, and goes on from there: a few thousandths of the model's own work a
draft. Or it picks several tokens, and goes on from those that are most likely to stand: a tree
(`decode.draft_tree`). Exact mode checks drafts, so a head changes no text. It knows frequent tokens
only; its weights have 8 bits. A model directory may hold one (`draft_head.safetensors`).

Sources: heads that follow each other, Ankner et al. 2024 (arXiv 2402.05109); drafting from the last
state, Li et al. 2024 (arXiv 2401.15077); trees by confidence, Li et al. 2024 (arXiv 2406.16858).
Shapes: R rows, D hidden size, W width, V tokens the head knows, N drafts.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from torch.nn.functional import silu

from multistride.cpu import multiplies_int8
from multistride.decode.draft_tree import DraftTree
from multistride.errors import DataError

DRAFT_HEAD = "draft_head.safetensors"
"""The file of a model directory that holds its head."""

BRANCHES = 4
"""Most drafts of a tree behind one token, and most of one depth that others stand behind (also in
`draft_head.c`)."""

LEAST = 1e-30
"""Drafts less likely than this are not made."""

Product = Callable[[Float[Tensor, "R I"]], Float[Tensor, "R O"]]


class Guessed(NamedTuple):
    """Drafts of every row, and the probability of each behind those before it; N may be 0."""

    tokens: Int[Tensor, "R N"]
    probabilities: Float[Tensor, "R N"]


class DraftHead:
    """Drafts from last states. Every table of weights is int8 with a scale for each row."""

    def __init__(self, tensors: dict[str, Tensor]) -> None:
        """Take the tensors of a file; `load` checks their shapes."""
        self.tensors = tensors
        self._tokens = tensors["tokens"].long()
        self._table, self._scale = tensors["table"], tensors["table.scale"][:, None]
        self._gain, self._into, self._keep = (tensors[name] for name in ("gain", "into", "keep"))
        self._index = torch.full((int(self._tokens.max()) + 2,), len(self._tokens))
        self._index[self._tokens] = torch.arange(len(self._tokens))

    @cached_property
    def _layers(self) -> tuple[Product, Product, Product]:
        """Return the layers that widen and narrow, and that of the output."""
        biases = {"widen": "widen.bias", "narrow": "narrow.bias", "table": "bias"}
        first, second, third = (
            product(self.tensors[name], self.tensors[f"{name}.scale"], self.tensors[bias])
            for name, bias in biases.items()
        )
        return first, second, third

    @classmethod
    def load(
        cls, directory: Path | str, hidden_size: int, vocabulary_size: int
    ) -> DraftHead | None:
        """Return the head in a model directory, None if it has none.

        Raises `DataError` if it is damaged or of a model of another size.
        """
        path = Path(directory) / DRAFT_HEAD
        if not path.is_file():
            return None
        try:
            tensors = load_file(path)
        except (SafetensorError, OSError) as error:
            raise DataError(f"{path} is damaged: delete it, or copy it again") from error
        if not _fits(tensors, hidden_size, vocabulary_size):
            raise DataError(
                f"{path} is no draft head of a model of width {hidden_size} with "
                f"{vocabulary_size} tokens: delete it, or copy the one that was made for this model"
            )
        return cls(tensors)

    @torch.inference_mode()
    def guess(
        self,
        states: Float[Tensor, "R D"],
        written: Int[Tensor, "R"],
        count: int,
        least: float = 0.0,
    ) -> Guessed:
        """Return up to `count` drafts behind the tokens `written`, which were picked from `states`.

        It ends before a draft that is less than `least` likely to stand, with all before it, in
        every row.
        """
        state, index = states.float().cpu(), self.index_of(written)  # the head lies there
        tokens = torch.zeros(len(state), count, dtype=torch.long)
        shares, standing = torch.zeros(len(state), count), torch.ones(len(state))
        for place in range(count):
            state = self._next(state, index)
            share, index = self._layers[2](state).softmax(1).max(1)
            standing = standing * share
            if bool((standing < least).all()):
                return Guessed(tokens[:, :place], shares[:, :place])
            tokens[:, place], shares[:, place] = self._tokens[index], share
        return Guessed(tokens, shares)

    @torch.inference_mode()
    def grow(
        self, state: Float[Tensor, "D"], written: int, count: int, least: float = 0.0
    ) -> DraftTree:
        """Return up to `count` drafts behind the token `written`, which was picked from `state`:
        the most probable first, none less than `least` likely to stand.

        Of every depth the `BRANCHES` most probable drafts are followed by as many, if they are
        among the `count` best so far.
        """
        found: list[tuple[float, int, int]] = []  # logarithms, tokens of the table, parents
        best, followed = list[int](), [-1]
        states, index = state.float().cpu()[None], self.index_of(torch.tensor([written]))
        for _ in range(count):
            if not followed:
                break
            states = self._next(states, index)
            top = self._layers[2](states).log_softmax(1).topk(min(BRANCHES, len(self._tokens)))
            rows, known = list[int](), len(found)
            for row, parent in enumerate(followed):
                before = found[parent][0] if parent >= 0 else 0.0
                for share, token in zip(*(each[row].tolist() for each in top), strict=True):
                    if before + share >= math.log(max(least, LEAST)):
                        found.append((before + share, token, parent))
                        rows.append(row)
            best = sorted(range(len(found)), key=lambda each: (-found[each][0], each))[:count]
            followed = [each for each in best if each >= known][:BRANCHES]
            states = states[[rows[each - known] for each in followed]]
            index = torch.tensor([found[each][1] for each in followed])
        places = {-1: -1} | {each: place for place, each in enumerate(best)}
        return DraftTree(
            [int(self._tokens[found[each][1]]) for each in best],
            [places[found[each][2]] for each in best],
            [math.exp(found[each][0]) for each in best],
        )

    def index_of(self, tokens: Int[Tensor, "R"]) -> Int[Tensor, "R"]:
        """Return the places of tokens in the table; V of those it does not know."""
        return self._index[tokens.clamp(max=len(self._index) - 1)]

    def _next(self, state: Float[Tensor, "R D"], index: Int[Tensor, "R"]) -> Float[Tensor, "R D"]:
        """Return the estimate of the state behind another token; index V: one it does not know."""
        known = index.clamp(max=len(self._table) - 1)
        read = self._table[known].float() * self._scale[known]
        read = read * (index < len(self._table))[:, None]
        normed = state * torch.rsqrt(state.square().mean(1, keepdim=True) + 1e-5) * self._gain
        widen, narrow, _ = self._layers
        wide = silu(widen(torch.cat([normed, read * self._into], 1)))
        return state * self._keep + narrow(wide)


_TABLES = ("table", "widen", "narrow")
_NUMBERS = ("bias", "gain", "into", "keep", "widen.bias", "narrow.bias")


def _fits(tensors: dict[str, Tensor], hidden_size: int, vocabulary_size: int) -> bool:
    """Return True if the tensors are those of a head for such a model."""
    scales = tuple(f"{name}.scale" for name in _TABLES)
    if set(tensors) != {"tokens", *_TABLES, *_NUMBERS, *scales}:
        return False
    tokens, width = tensors["tokens"], len(tensors["widen"])
    shapes = {
        "table": (len(tokens), hidden_size),
        "widen": (width, 2 * hidden_size),
        "narrow": (hidden_size, width),
        "bias": (len(tokens),),
        "widen.bias": (width,),
        "narrow.bias": (hidden_size,),
        **dict.fromkeys(("gain", "into", "keep"), (hidden_size,)),
    }
    shapes |= {f"{name}.scale": shapes[name][:1] for name in _TABLES}
    kinds = {"tokens": torch.int32, **dict.fromkeys(_TABLES, torch.int8)}
    return (
        tokens.ndim == 1
        and len(tokens) > 0
        and 0 <= int(tokens.min()) <= int(tokens.max()) < vocabulary_size
        and all(tuple(tensors[name].shape) == shape for name, shape in shapes.items())
        and all(each.dtype == kinds.get(name, torch.float32) for name, each in tensors.items())
    )


def multiplies_8_bits() -> bool:
    """Return True where PyTorch has products of 8-bit integers for this processor."""
    return "fbgemm" in torch.backends.quantized.supported_engines


def product(
    table: Int[Tensor, "O I"], scale: Float[Tensor, "O"], bias: Float[Tensor, "O"]
) -> Product:
    """Return the linear layer of int8 weights: in 8 bits where PyTorch multiplies such numbers."""
    if multiplies_8_bits():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PyTorch recommends torchao, a package of its own
            zeros = torch.zeros(len(table), dtype=torch.long)
            rows = torch._make_per_channel_quantized_tensor(table, scale.double(), zeros, 0)
            torch.backends.quantized.engine = "fbgemm"
            packed = torch.ops.quantized.linear_prepack(rows, bias)
        in_7_bits = not multiplies_int8()

        def multiply(rows: Float[Tensor, "R I"]) -> Float[Tensor, "R O"]:
            output: Tensor = torch.ops.quantized.linear_dynamic(
                rows.contiguous(), packed, in_7_bits
            )
            return output

        return multiply
    weight = table.float() * scale[:, None]
    return lambda rows: torch.nn.functional.linear(rows, weight, bias)


def quantised(weight: Float[Tensor, "O I"]) -> tuple[Int[Tensor, "O I"], Float[Tensor, "O"]]:
    """Return a table in 8 bits and the scale of every row."""
    scale = (weight.abs().amax(1) / 127).clamp(min=1e-12)
    return (weight / scale[:, None]).round().to(torch.int8), scale
