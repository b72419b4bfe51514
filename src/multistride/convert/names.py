"""Name maps: which of their tensors make one of ours, and that none is left over."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from multistride.convert.checkpoint import Checkpoint
from multistride.errors import DataError
from multistride.model.config import TransformerConfig

Change = Callable[[Tensor], Tensor]


def unchanged(tensor: Tensor) -> Tensor:
    """Return the tensor as it is."""
    return tensor


class Entry(NamedTuple):
    """One of our tensors: theirs, each changed, one below the other, then changed as a whole.

    What is made of none of theirs is computed by `whole`, which is given an empty tensor.
    """

    ours: str
    theirs: tuple[str, ...]
    change: Change = unchanged
    whole: Change = unchanged


@dataclass(frozen=True)
class Layout:
    """The mapping from one family of checkpoints to our modules.

    `configure` reads its config.json into ours (less what the tokenizer decides) and raises
    `DataError` for what we have no brick for; `entries` maps the tensors; `ignored` says which of
    theirs hold nothing that is learned.
    """

    configure: Callable[[Checkpoint], TransformerConfig]
    entries: Callable[[TransformerConfig, Checkpoint], Sequence[Entry]]
    ignored: Callable[[str], bool] = lambda name: False


def linear(ours: str, *theirs: str, bias: bool = True, change: Change = unchanged) -> list[Entry]:
    """Return the weight of a linear layer, and its bias where it has one."""
    parts = ("weight", "bias") if bias else ("weight",)
    return [
        Entry(f"{ours}.{part}", tuple(f"{name}.{part}" for name in theirs), change)
        for part in parts
    ]


def scaled(rows: Tensor, queries: int, factor: float) -> Tensor:
    """Return the rows of queries, keys and values with the queries multiplied by `factor`.

    In float32, unless it is a power of two, which loses nothing in any precision.
    """
    if torch.tensor(factor).frexp().mantissa != 0.5:
        rows = rows.float()
    return torch.cat([rows[:queries] * factor, rows[queries:]])


def mapped(layout: Layout, config: TransformerConfig, checkpoint: Checkpoint) -> dict[str, Tensor]:
    """Return our tensors, made of theirs as the layout says.

    Raises `DataError` for a tensor that is not there, and for one that nothing was made of.
    """
    result: dict[str, Tensor] = {}
    used: set[str] = set()
    for entry in layout.entries(config, checkpoint):
        missing = [name for name in entry.theirs if name not in checkpoint.names]
        if missing:
            raise DataError(
                f"{checkpoint.name} lacks the tensor {missing[0]}, which its config.json asks for: "
                "download it again, or correct config.json"
            )
        parts = [entry.change(checkpoint.read(name)) for name in entry.theirs]
        one = parts[0] if len(parts) == 1 else torch.cat(parts or [torch.empty(0)])
        result[entry.ours] = entry.whole(one)
        used.update(entry.theirs)
    left = sorted(name for name in checkpoint.names - used if not layout.ignored(name))
    if left:
        raise DataError(
            f"{checkpoint.name} has the tensor {left[0]}, for which the layout "
            f"{checkpoint.model_type} has no place: "
            "it cannot be converted"
        )
    return result


def check_head(checkpoint: Checkpoint, tied: bool, head: str, embedding: str) -> None:
    """Raise `DataError` unless the output matrix is where config.json says it is.

    Tied, there may be a copy of the embedding under the name of the output matrix, and of nothing
    else.
    """
    if embedding not in checkpoint.names and embedding.removeprefix("model.") in checkpoint.names:
        raise DataError(
            f"{checkpoint.name} was saved without the part that writes (its tensors have no "
            "`model.` in front): load it with AutoModelForCausalLM, or AutoModelForSeq2SeqLM, and "
            "save_pretrained it"
        )
    if embedding not in checkpoint.names:
        said = (
            "tie_word_embeddings true, so output and embedding are one" if tied else "an embedding"
        )
        raise DataError(
            f"{checkpoint.name} declares {said}, but {embedding} is not there: download it again"
        )
    if not tied and head not in checkpoint.names:
        raise DataError(
            f"{checkpoint.name} declares an output matrix of its own (tie_word_embeddings false), "
            f"but {head} is not "
            "there: download it again, or correct config.json"
        )
    if (
        tied
        and head in checkpoint.names
        and not torch.equal(checkpoint.read(head), checkpoint.read(embedding))
    ):
        raise DataError(
            f"{checkpoint.name} declares output and embedding to be one (tie_word_embeddings "
            f"true), but {head} is "
            f"not equal to {embedding}: correct config.json"
        )


def refuse(checkpoint: Checkpoint, what: str) -> DataError:
    """Return the error for a choice of theirs that we have no brick for."""
    return DataError(
        f"{checkpoint.name} has {what}, for which there is no brick here: it cannot be converted"
    )
