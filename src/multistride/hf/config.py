"""`MultistrideConfig`: what config.json says, in the terms of transformers."""

from __future__ import annotations

from typing import Any

from transformers import PreTrainedConfig

from multistride.model.config import TransformerConfig
from multistride.model.weights import config_file

_DEFAULT_VOCABULARY = 8
"""transformers makes configurations without arguments, to compare others with."""


class MultistrideConfig(PreTrainedConfig):
    """The fields of `TransformerConfig` as attributes; `transformer` is that configuration.

    `vocab_size`, `num_hidden_layers`, `num_attention_heads` and `tie_word_embeddings` are other
    names of ours.
    """

    model_type = "multistride"
    attribute_map = {  # noqa: RUF012  # transformers reads it from the class
        "vocab_size": "vocabulary_size",
        "num_hidden_layers": "decoder_layers",
        "num_attention_heads": "heads",
        "encoder_attention_heads": "heads",
        "decoder_attention_heads": "heads",
        "intermediate_size": "feedforward_size",
        "max_position_embeddings": "max_positions",
        "d_model": "hidden_size",
    }
    keys_to_ignore_at_inference = ["past_key_values", "cache"]  # noqa: RUF012  # Trainer adds a list

    def __init__(self, **settings: Any) -> None:
        renamed = {self.attribute_map.get(name, name): value for name, value in settings.items()}
        ours = {
            name: renamed.pop(name) for name in TransformerConfig.model_fields if name in renamed
        }
        # The stored choice counts; transformers hands over its own where a file has both.
        tied = renamed.pop("tie_word_embeddings", None)
        if tied is not None:
            ours.setdefault("tie_embeddings", tied)
        ours.setdefault("vocabulary_size", _DEFAULT_VOCABULARY)
        config = TransformerConfig.model_validate(ours)
        for name in TransformerConfig.model_fields:
            setattr(self, name, _plain(getattr(config, name)))
        self.use_cache = renamed.pop("use_cache", True)
        special = {
            "pad_token_id": config.pad_token,
            "bos_token_id": config.start_token,
            "eos_token_id": list(config.ends) if config.further_ends else config.end_token,
            "decoder_start_token_id": config.start_token,
        }
        # Files may be stored in half the precision; decoding is meant for float32 unless asked
        # otherwise.
        defaults = {"dtype": "float32", **special}
        super().__init__(
            **{
                **defaults,
                **renamed,
                "is_encoder_decoder": config.encoder_layers > 0,
                "tie_word_embeddings": config.tie_embeddings,
            }
        )

    @property
    def num_key_value_heads(self) -> int:
        """Return the number of heads of keys and values, which caches are made with."""
        return self.transformer.key_value_count

    @property
    def head_dim(self) -> int:
        """Return the width of a head."""
        return self.transformer.head_width

    @property
    def transformer(self) -> TransformerConfig:
        """Return the configuration of our model, with what has been changed since."""
        fields = {name: getattr(self, name) for name in TransformerConfig.model_fields}
        return TransformerConfig.model_validate(fields)

    def to_dict(self) -> dict[str, Any]:
        """Return what config.json of a model directory holds, so that multistride can read it."""
        return config_file(self.transformer)

    def to_diff_dict(self) -> dict[str, Any]:
        """Return `to_dict`: no choice is left out because it is a default of this version."""
        return self.to_dict()

    @classmethod
    def register_for_auto_class(cls, auto_class: Any = "AutoConfig") -> None:
        """Do nothing: directories name their classes in `auto_map` and need no copy of this
        code.
        """


def _plain(value: Any) -> Any:
    """Return a value as JSON has it: transformers copies and compares configurations."""
    if hasattr(value, "model_dump"):
        return value.model_dump(mode="json")
    return list(value) if isinstance(value, tuple) else value
