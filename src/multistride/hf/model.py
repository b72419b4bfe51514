"""The classes that transformers sees: a configuration, a causal and an encoder-decoder model.

They hold our `Transformer` and nothing else that is learned; `save_pretrained` writes a model
directory that multistride reads. `forward` is one pass without a cache, for training and for
transformers' own ways of generating.

Shapes: B sentences, S source tokens, T target tokens, V vocabulary.
"""

from __future__ import annotations

import shutil
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, pad
from transformers import GenerationMixin, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput, CausalLMOutput, Seq2SeqLMOutput

from multistride.decode.phrases import PHRASES, PhraseTable
from multistride.errors import UsageError
from multistride.groups import NO_LABEL, PADDING_GROUP, Slots, visibility
from multistride.hf.generation import generate
from multistride.model.config import TransformerConfig
from multistride.model.layers import PositionEmbedding, RotaryPositions
from multistride.model.transformer import Transformer

_BESIDE = (
    "tokenizer.json",
    "tokenizer_config.json",
    "target_tokenizer.json",
    "provenance.json",
    "README.md",
    PHRASES,
)
"""Files of a model directory that transformers does not write with the model; they come along if
not yet there."""


class MultistrideConfig(PreTrainedConfig):
    """What config.json says. The choices of `TransformerConfig` are attributes; `transformer` is
    all of them.
    """

    model_type = "multistride"

    def __init__(self, **settings: Any) -> None:
        ours = {
            name: settings.pop(name) for name in TransformerConfig.model_fields if name in settings
        }
        self.transformer = TransformerConfig.model_validate({"vocabulary_size": 8, **ours})
        config = self.transformer
        for name, value in config.stored().items():
            setattr(self, name, value)
        self.vocab_size, self.num_hidden_layers = config.vocabulary_size, config.decoder_layers
        # Files may be stored in half the precision; decoding is meant for float32 unless asked
        # otherwise.
        settings = {"dtype": "float32", **settings}
        super().__init__(**{**settings, "is_encoder_decoder": config.encoder_layers > 0})
        self.pad_token_id, self.bos_token_id = config.pad_token, config.start_token
        self.eos_token_id = list(config.ends) if config.further_ends else config.end_token
        self.decoder_start_token_id = config.start_token
        self.tie_word_embeddings = False

    def to_dict(self) -> dict[str, Any]:
        """What a model directory's config.json holds, so that multistride reads what transformers
        writes.
        """
        return {"model_type": self.model_type, **self.transformer.stored()}

    def to_diff_dict(self) -> dict[str, Any]:
        """The same."""
        return self.to_dict()


class _Multistride(PreTrainedModel, GenerationMixin):
    """What both models share."""

    config_class = MultistrideConfig
    base_model_prefix = "transformer"
    main_input_name = "input_ids"
    encoder_decoder = False

    def __init__(self, config: MultistrideConfig) -> None:
        super().__init__(config)
        if config.is_encoder_decoder != self.encoder_decoder:
            right = "AutoModelForSeq2SeqLM" if config.is_encoder_decoder else "AutoModelForCausalLM"
            kind = "an encoder-decoder" if config.is_encoder_decoder else "a causal model"
            raise UsageError(
                f"{type(self).__name__} was asked for, and the model is {kind}: use {right}"
            )
        self.transformer = Transformer(config.transformer)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """Compute anew what is in no file, for transformers empties it; all else is in the file."""
        if isinstance(module, PositionEmbedding | RotaryPositions):
            fresh = type(module)(self.config.transformer)
            for name, table in fresh.named_buffers():
                module.get_buffer(name).copy_(table)

    @cached_property
    def phrases(self) -> PhraseTable | None:
        """The table of phrases of the directory the model was read from, read when it is first
        asked for.
        """
        return PhraseTable.load(self.config._name_or_path) if self.config._name_or_path else None

    def get_input_embeddings(self) -> nn.Module:
        """The embedding of target tokens."""
        return self.transformer.target_embedding

    def generate(
        self, inputs: Tensor | None = None, custom_generate: Any = generate, **settings: Any
    ) -> Any:
        """By our loop, see `multistride.hf.generate`; with `custom_generate=None` by that of
        transformers.
        """
        if custom_generate is generate and settings.get("streamer") is not None:
            settings["group_streamer"] = settings["streamer"]
        if settings.get("max_new_tokens") is not None:
            settings.setdefault("max_length", None)
        return super().generate(
            inputs, custom_generate=custom_generate, use_cache=False, **settings
        )

    def save_pretrained(self, save_directory: Any, **settings: Any) -> None:
        """Write a model directory; the tokenizer, card and provenance come along from where the
        model was read.
        """
        names = {
            name.removeprefix("transformer."): tensor for name, tensor in self.state_dict().items()
        }
        super().save_pretrained(save_directory, **{"state_dict": names, **settings})
        origin, place = Path(self.config._name_or_path), Path(save_directory)
        for name in _BESIDE:
            if (
                self.config._name_or_path
                and (origin / name).is_file()
                and not (place / name).exists()
            ):
                shutil.copyfile(origin / name, place / name)


class MultistrideForCausalLM(_Multistride):
    """A causal model: token by token as transformers does, or K at a time by `generate`."""

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        **unused: Any,
    ) -> CausalLMOutput:
        """Logits [B, T, V] of the next token at every place, and the loss given `labels` [B, T]
        (-100: none).
        """
        real = (
            torch.ones_like(input_ids)
            if attention_mask is None
            else attention_mask[:, : input_ids.shape[1]]
        )
        position = real.long().cumsum(1)
        hidden = _decoded(self.transformer, input_ids, position, real.bool(), None, None)
        logits = self.transformer.project(hidden)
        following = None if labels is None else pad(labels[:, 1:], (0, 1), value=NO_LABEL)
        return CausalLMOutput(loss=_loss(logits, following), logits=logits)


class MultistrideForSeq2SeqLM(_Multistride):
    """An encoder-decoder: token by token as transformers does, or K at a time by `generate`."""

    encoder_decoder = True

    def get_encoder(self, *unused: Any, **also_unused: Any) -> nn.Module:
        """What transformers calls before it generates."""
        return Encoder(self.transformer)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        decoder_input_ids: Tensor | None = None,
        encoder_outputs: Any = None,
        labels: Tensor | None = None,
        **unused: Any,
    ) -> Seq2SeqLMOutput:
        """Logits [B, T, V] of what follows each of `decoder_input_ids`, which begin with the start
        symbol.

        With `labels` [B, T] (-100: none) and no decoder input, that is the labels moved on by one.
        """
        config = self.config.transformer
        if encoder_outputs is None:
            encoder_outputs = self.get_encoder()(input_ids, attention_mask)
        if decoder_input_ids is None:
            if labels is None:
                raise UsageError(
                    "neither decoder_input_ids nor labels were given: give one of them"
                )
            decoder_input_ids = pad(labels[:, :-1], (1, 0), value=config.start_token)
            decoder_input_ids = decoder_input_ids.masked_fill(
                decoder_input_ids == NO_LABEL, config.pad_token
            )
        places = torch.arange(decoder_input_ids.shape[1], device=decoder_input_ids.device)
        position = places.expand_as(decoder_input_ids)
        real = torch.ones_like(decoder_input_ids, dtype=torch.bool)
        hidden = _decoded(
            self.transformer,
            decoder_input_ids,
            position,
            real,
            encoder_outputs[0],
            encoder_outputs.attentions,
        )
        logits = self.transformer.project(hidden)
        return Seq2SeqLMOutput(loss=_loss(logits, labels), logits=logits)

    def prepare_inputs_for_generation(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, **settings: Any
    ) -> dict[str, Any]:
        """For transformers' own loop, which hands over what the decoder has written so far."""
        return {"decoder_input_ids": input_ids, **settings}


class Encoder(nn.Module):
    """The encoder as transformers calls it. A source that does not end in EOS gets it: ours always
    do.
    """

    main_input_name = "input_ids"

    def __init__(self, transformer: Transformer) -> None:
        super().__init__()
        self.transformer = transformer

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, **unused: Any
    ) -> BaseModelOutput:
        """Encoded sources [B, S, D], and as `attentions` which of their tokens are real, [B, S]."""
        source, lengths = sources(input_ids, attention_mask, self.transformer.config)
        encoded, _ = self.transformer.encode(source, lengths)
        real = torch.arange(source.shape[1], device=source.device) < lengths[:, None]
        return BaseModelOutput(last_hidden_state=encoded, attentions=real)


def sources(
    input_ids: Tensor, attention_mask: Tensor | None, config: TransformerConfig
) -> tuple[Tensor, Tensor]:
    """Sources padded on the right, each ending in EOS, and their lengths; padding may come on
    either side.
    """
    mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
    rows = [row[kept.bool()] for row, kept in zip(input_ids, mask, strict=True)]
    end = input_ids.new_tensor([config.end_token])
    rows = [row if row[-1:].equal(end) else torch.cat([row, end]) for row in rows]
    lengths = torch.tensor([len(row) for row in rows], device=input_ids.device)
    return nn.utils.rnn.pad_sequence(
        rows, batch_first=True, padding_value=config.pad_token
    ), lengths


def _decoded(
    transformer: Transformer,
    tokens: Tensor,
    position: Tensor,
    real: Tensor,
    encoded: Tensor | None,
    encoded_real: Tensor | None,
) -> Tensor:
    """Final hidden states of tokens read in autoregressive order."""
    group = torch.where(real, position, PADDING_GROUP)
    slots = Slots(tokens, position, torch.ones_like(position), group)
    mask = visibility(group, group)[:, None]
    if encoded is None or encoded_real is None:
        return transformer.decode(slots, mask, [], None, None)
    return transformer.decode(
        slots, mask, transformer.project_source(encoded), encoded_real[:, None, None, :], None
    )


def _loss(logits: Tensor, labels: Tensor | None) -> Tensor | None:
    return (
        None
        if labels is None
        else cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=NO_LABEL)
    )
