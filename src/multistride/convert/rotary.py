"""Rotary positions of a checkpoint, in the terms of `TransformerConfig`.

Scalings other than Llama 3.1's become explicit frequencies, computed in float32 as transformers
computes them: linear scaling, YaRN (Peng et al. 2023, arXiv 2309.00071), the short context of
LongRoPE (Ding et al. 2024, arXiv 2402.13753), rotations of a part of each head, and the divisors
that GGUF files of Llama 3 hold.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from multistride.convert.checkpoint import Checkpoint
from multistride.convert.names import refuse
from multistride.model.config import RotaryScaling
from multistride.model.layers import frequencies

KINDS = ("default", "linear", "llama3", "yarn", "longrope")
"""The kinds of rotary positions, in the words of transformers, that can be converted."""


DIVISORS = "divisors"
"""The kind of rotary positions that list a divisor for every frequency, which GGUF files hold."""


_SHARES = {"gpt_neox": 0.25, "phi": 0.5}
"""The shares of each head that are turned, where config.json does not say; elsewhere all of it."""

_BASES = {"gemma3_text": 1_000_000.0}
"""The bases of rotations where config.json names none (Gemma 3: outside of windows); elsewhere
10,000."""

_TRAINED = "original_max_position_embeddings"
"""The context that a model was trained with, before it was made to read longer texts."""


class Rotary(NamedTuple):
    """The way queries and keys are turned. `width` coordinates of each head are; the rest stay.

    `positions` is the longest context that the frequencies serve, None: whatever config.json says.
    """

    base: float
    width: int
    scaling: RotaryScaling | None = None
    frequencies: tuple[float, ...] | None = None
    factor: float = 1.0
    positions: int | None = None

    def fields(self, head: int) -> dict[str, Any]:
        """Return the fields of `TransformerConfig` for heads of this width.

        Where a part of each head is rotated, the other pairs have the frequency 0; `halves` puts
        the coordinates where pairs are looked for.
        """
        turned = self.frequencies
        if self.width < head:
            known = turned or tuple(frequencies(self.base, self.width).tolist())
            turned = (*known, *[0.0] * ((head - self.width) // 2))
        return {
            "rotary_base": self.base,
            "rotary_scaling": self.scaling,
            "rotary_frequencies": turned,
            "rotary_factor": self.factor,
        }


def settings(checkpoint: Checkpoint, layers: str | None = None) -> dict[str, Any]:
    """Return what config.json says of rotary positions, from where transformers 4 or 5 keeps it.

    `layers` is the kind of layers where there are several ("full_attention").
    """
    config = checkpoint.config
    found: dict[str, Any] = config.get("rope_parameters") or config.get("rope_scaling") or {}
    if layers is not None and layers in found:
        found = found[layers] or {}
    share = config.get("partial_rotary_factor", config.get("rotary_pct"))
    base = _BASES.get(checkpoint.model_type, 10_000.0)
    said = {
        "rope_theta": config.get("rope_theta", config.get("rotary_emb_base", base)),
        "partial_rotary_factor": _SHARES.get(checkpoint.model_type, 1.0)
        if share is None
        else share,
        **{name: value for name, value in found.items() if value is not None},
    }
    if (trained := config.get(_TRAINED)) is not None:  # transformers prefers it to the one inside
        said[_TRAINED] = trained
    return said


def rotary(checkpoint: Checkpoint, head: int, layers: str | None = None) -> Rotary:
    """Return the rotations of heads that are `head` wide.

    Raises `DataError` for a kind that is not known.
    """
    said = settings(checkpoint, layers)
    kind = said.get("rope_type", said.get("type", "default"))
    if kind == "su":  # what LongRoPE was called first
        kind = "longrope"
    base, width = float(said["rope_theta"]), int(head * said["partial_rotary_factor"])
    if width % 2 or head % 2:
        raise refuse(checkpoint, f"rotations of {width} coordinates of a head of {head}")
    if kind == "default":
        return Rotary(base, width)
    if kind == "llama3" and width == head:
        return Rotary(base, width, _llama3(said, checkpoint))
    if kind not in _COMPUTED:
        raise refuse(checkpoint, f"rotary positions of the kind {kind} (known are {_list(KINDS)})")
    return _COMPUTED[kind](said, checkpoint, base, width)


def _llama3(said: dict[str, Any], checkpoint: Checkpoint) -> RotaryScaling:
    return RotaryScaling(
        factor=said["factor"],
        low_frequency=said["low_freq_factor"],
        high_frequency=said["high_freq_factor"],
        original_positions=said.get(_TRAINED) or checkpoint.config["max_position_embeddings"],
    )


def _linear(said: dict[str, Any], checkpoint: Checkpoint, base: float, width: int) -> Rotary:
    slower = _plain(base, width) / float(said["factor"])
    return Rotary(base, width, frequencies=tuple(slower.tolist()))


def _divided(said: dict[str, Any], checkpoint: Checkpoint, base: float, width: int) -> Rotary:
    slower = _plain(base, width) / torch.tensor(said[DIVISORS], dtype=torch.float32)
    return Rotary(base, width, frequencies=tuple(slower.tolist()))


def _yarn(said: dict[str, Any], checkpoint: Checkpoint, base: float, width: int) -> Rotary:
    longest = checkpoint.config["max_position_embeddings"]
    original = said.get(_TRAINED) or longest
    factor = float(said.get("factor") or longest / original)
    low, high = (
        width * math.log(original / (turns * 2 * math.pi)) / (2 * math.log(base))
        for turns in (said.get("beta_fast") or 32, said.get("beta_slow") or 1)
    )
    if said.get("truncate", True):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, width - 1)
    if low == high:
        high += 0.001
    places = torch.arange(width // 2, dtype=torch.float32)
    kept = 1 - ((places - low) / (high - low)).clamp(0, 1)
    periods = base ** (torch.arange(0, width, 2).float() / width)
    mixed = 1.0 / (factor * periods) * (1 - kept) + 1.0 / periods * kept
    return Rotary(base, width, frequencies=tuple(mixed.tolist()), factor=_yarn_factor(said, factor))


def _yarn_factor(said: dict[str, Any], factor: float) -> float:
    """Return what rotated queries and keys are multiplied by (section 3.4 of the paper)."""

    def growth(weight: float) -> float:
        return 1.0 if factor <= 1 else 0.1 * weight * math.log(factor) + 1.0

    if "attention_factor" in said:
        return float(said["attention_factor"])
    if said.get("mscale") and said.get("mscale_all_dim"):
        return growth(said["mscale"]) / growth(said["mscale_all_dim"])
    return growth(1.0)


def _longrope(said: dict[str, Any], checkpoint: Checkpoint, base: float, width: int) -> Rotary:
    """Return the rotations of texts up to the original context, which have their own factors.

    Longer texts have others for all of their slots, so one cache cannot serve both.
    """
    longest = checkpoint.config["max_position_embeddings"]
    original = said.get(_TRAINED) or longest
    factor = float(said.get("factor") or longest / original)
    grown = 1.0 if factor <= 1 else math.sqrt(1 + math.log(factor) / math.log(original))
    short = torch.tensor(said["short_factor"], dtype=torch.float32)
    if short.shape != (width // 2,):
        raise ValueError(f"{short.numel()} short factors for {width // 2} frequencies")
    slower = 1.0 / (short * base ** (torch.arange(0, width, 2).float() / width))
    return Rotary(
        base,
        width,
        frequencies=tuple(slower.tolist()),
        factor=float(said.get("attention_factor", grown)),
        positions=min(original, longest),
    )


_COMPUTED: dict[str, Callable[[dict[str, Any], Checkpoint, float, int], Rotary]] = {
    "linear": _linear,
    DIVISORS: _divided,
    "yarn": _yarn,
    "longrope": _longrope,
}


def _plain(base: float, width: int) -> Tensor:
    return 1.0 / (base ** (torch.arange(0, width, 2).float() / width))


def _list(names: tuple[str, ...]) -> str:
    return ", ".join(names)


def halves(rows: Tensor, heads: int, width: int) -> Tensor:
    """Return rows of queries or keys [heads * E, ...] whose pairs are the two halves of a head.

    In the checkpoint, pairs are the halves of the first `width` coordinates. Queries and keys
    reordered alike have the same products.
    """
    split = rows.unflatten(0, (heads, -1))
    half, middle = width // 2, (split.shape[1] + width) // 2
    parts = [split[:, :half], split[:, width:middle], split[:, half:width], split[:, middle:]]
    return torch.cat(parts, dim=1).flatten(0, 1)
