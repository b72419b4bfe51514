"""A pooled head on the encoder: from tokens to vectors of windows to classes of documents.

Shapes: R windows, S tokens of a window, D hidden size, P width of a window's vector, B documents, C
classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from multistride.errors import DataError
from multistride.model.config import TransformerConfig
from multistride.model.wide import WidePath

SHOWN = 5
"""Maximum number of labels named in a message."""

Aggregation = Literal["mean", "max", "attention"]


class PooledHead(nn.Module):
    """A classifier of documents, which may be longer than what is encoded at once.

    Attention over windows is the additive one of hierarchical attention networks (Yang et al. 2016,
    https://aclanthology.org/N16-1174, equations 8 to 10), here over vectors of windows in place of
    sentences.
    """

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        assert config.classifier is not None
        self.config = config.classifier
        width = config.hidden_size * (2 if self.config.pool == "mean-max" else 1)
        self.attention: nn.Module | None = None
        if self.config.windows == "attention":
            inner = nn.Linear(width, config.hidden_size)
            self.attention = nn.Sequential(
                inner, nn.Tanh(), nn.Linear(config.hidden_size, 1, bias=False)
            )
        self.dropout = nn.Dropout(self.config.dropout)
        self.output = nn.Linear(width, len(self.config.classes))
        self.wide = (
            WidePath(self.config, config.vocabulary_size) if self.config.wide is not None else None
        )

    def pool(
        self, encoded: Float[Tensor, "R S D"], lengths: Int[Tensor, "R"]
    ) -> Float[Tensor, "R P"]:
        """Return one vector for every window, in float32; padding is ignored."""
        real = (torch.arange(encoded.shape[1], device=encoded.device) < lengths[:, None])[
            :, :, None
        ]
        encoded = encoded.float()
        parts = []
        if self.config.pool != "max":
            parts.append(encoded.masked_fill(~real, 0.0).sum(1) / lengths[:, None])
        if self.config.pool != "mean":
            parts.append(encoded.masked_fill(~real, -torch.inf).amax(1))
        return torch.cat(parts, dim=1)

    def forward(
        self, vectors: Float[Tensor, "R P"], document: Int[Tensor, "R"], documents: int
    ) -> Float[Tensor, "B C"]:
        """Return the logits of the classes from the vectors of windows.

        `document` is the index, below `documents`, of each window's document; every document has a
        window. A wide path adds its logits to these.
        """
        scores = None if self.attention is None else self.attention(vectors).squeeze(1).float()
        together = aggregated(vectors, document, documents, self.config.windows, scores)
        logits: Tensor = self.output(self.dropout(together))
        return logits.float()


def aggregated(
    rows: Float[Tensor, "R P"],
    document: Int[Tensor, "R"],
    documents: int,
    how: Aggregation,
    scores: Float[Tensor, "R"] | None = None,
) -> Float[Tensor, "B P"]:
    """Return the mean, the maximum or the attention-weighted mean of the rows of each document.

    Attention weights are the softmax of `scores`.
    """
    if how == "max":
        lowest = rows.new_full((documents, rows.shape[1]), -torch.inf)
        return lowest.scatter_reduce(0, document[:, None].expand_as(rows), rows, "amax")
    weights = rows.new_ones(len(rows))
    if how == "attention":
        assert scores is not None
        highest = scores.new_full((documents,), -torch.inf).scatter_reduce(
            0, document, scores.detach(), "amax"
        )
        weights = (scores - highest[document]).exp()
    total = rows.new_zeros(documents).index_add(0, document, weights)
    summed = rows.new_zeros(documents, rows.shape[1]).index_add(
        0, document, rows * weights[:, None]
    )
    return summed / total[:, None]


def check_classes(known: Sequence[str], given: Sequence[str], model: str, where: str) -> None:
    """Raise `DataError` with the differences unless `given` are the classes of `model`.

    `where` names the origin of `given`.
    """
    missing, new = sorted(set(known) - set(given)), sorted(set(given) - set(known))
    if not missing and not new:
        return
    parts = [
        f"{_some(missing)} missing" if missing else "",
        f"{_some(new)} not known" if new else "",
    ]
    raise DataError(
        f"the classes of {where} are not those of {model}: {' and '.join(filter(None, parts))}; "
        "use the list it was trained with, or train anew"
    )


def _some(labels: Sequence[str]) -> str:
    shown = ", ".join(repr(label) for label in labels[:SHOWN])
    return f"{shown} and {len(labels) - SHOWN} more" if len(labels) > SHOWN else shown


def freeze_what_writes(model: nn.Module) -> None:
    """Freeze what only a decoder reads: reach vectors and rotary start symbols."""
    for name, parameter in model.named_parameters():
        if name.startswith(("reach.", "position.further_start")):
            parameter.requires_grad = False
