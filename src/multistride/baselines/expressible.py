"""The one check of which models another program, or an export, has a place for."""

from __future__ import annotations

from collections.abc import Sequence

from multistride.errors import UsageError
from multistride.model.config import TransformerConfig


def check_expressible(
    config: TransformerConfig, what: str, encoder: bool = False, also: Sequence[str] = ()
) -> None:
    """Raise `UsageError` unless a model has only the parts of this package's own recipes.

    `what` names the use in the message; `encoder` says that it needs an encoder-decoder model.
    `also` are extras that it has a place for, by the beginnings of their texts.
    """
    if not config.decoder_layers:
        raise UsageError(f"{what} needs a model that writes, and this one is a pooled classifier")
    if encoder and not config.encoder_layers:
        raise UsageError(f"{what} is for models with an encoder: this one has no encoder")
    others = [extra for extra in config.extras if not extra.startswith(tuple(also))]
    if others:
        raise UsageError(
            f"{what} has no place for {others[0]} of this model: use the model as it is"
        )
