"""The classes that transformers sees: a causal and an encoder-decoder model.

They hold our `Transformer` and nothing else that is learned; `save_pretrained` writes a model
directory that multistride reads. `forward` is one autoregressive pass, with or without a cache of
transformers, for training and for its own ways of generating.

Shapes: B sentences, S source tokens, T target tokens, M keys, V vocabulary, D hidden size.
"""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from copy import deepcopy
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, pad
from transformers import (
    DynamicCache,
    EncoderDecoderCache,
    GenerationConfig,
    GenerationMixin,
    PreTrainedModel,
)
from transformers import initialization as init
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import (
    BaseModelOutput,
    CausalLMOutputWithPast,
    Seq2SeqLMOutput,
)
from transformers.utils.generic import can_return_tuple

from multistride.data.vocab import TOKENIZER_CONFIG_FILE, as_json
from multistride.data.vocabulary_files import CHAT_TEMPLATE_FILE
from multistride.decode.choosing.strategy import Measured
from multistride.decode.draft_head import DRAFT_HEAD
from multistride.decode.phrases import PHRASES, PhraseTable
from multistride.errors import UsageError
from multistride.groups import NO_LABEL, PADDING_GROUP, Slots, visibility
from multistride.hf.config import MultistrideConfig
from multistride.hf.generation import ended, generate, hand_over, requested
from multistride.hf.recording import Recorded, recording
from multistride.model.adapters import AdaptedLinear
from multistride.model.cache import KeyValue, LayerCache
from multistride.model.directory import CALIBRATION, TEMPERATURE, WEIGHTS, weights_digest
from multistride.model.distance import RelativeBias
from multistride.model.layers import PositionEmbedding, RotaryPositions
from multistride.model.markov import MarkovHead
from multistride.model.transformer import DecoderLayer, EncoderLayer, Transformer
from multistride.model.weights import write_modeling
from multistride.untrusted import read_object

_BESIDE = (
    "tokenizer.json",
    TOKENIZER_CONFIG_FILE,
    "target_tokenizer.json",
    "provenance.json",
    "README.md",
    PHRASES,
    DRAFT_HEAD,
)
"""Files of a model directory that transformers does not write with the model; they come along if
not yet there."""

_PAST = "cache" if "cache" in CausalLMOutputWithPast.__annotations__ else "past_key_values"
"""What this version of transformers calls the cache in outputs."""


class CheckpointedDecoderLayer(GradientCheckpointingLayer, DecoderLayer):
    """A decoder layer that can be computed again on the way back instead of being kept."""


class CheckpointedEncoderLayer(GradientCheckpointingLayer, EncoderLayer):
    """An encoder layer that can be computed again on the way back instead of being kept."""


class _Multistride(PreTrainedModel, GenerationMixin):
    """Base of both models."""

    config_class = MultistrideConfig
    base_model_prefix = "transformer"
    main_input_name = "input_ids"
    supports_gradient_checkpointing = True
    accepts_loss_kwargs = True
    encoder_decoder = False
    _supports_sdpa = True
    _no_split_modules = ("CheckpointedDecoderLayer", "CheckpointedEncoderLayer")
    _skip_keys_device_placement = ("past_key_values", "cache")

    def __init__(self, config: MultistrideConfig) -> None:
        super().__init__(config)
        if config.is_encoder_decoder != self.encoder_decoder:
            right = "AutoModelForSeq2SeqLM" if config.is_encoder_decoder else "AutoModelForCausalLM"
            kind = "an encoder-decoder" if config.is_encoder_decoder else "a causal model"
            raise UsageError(
                f"{type(self).__name__} was asked for, and the model is {kind}: use {right}"
            )
        self.transformer = Transformer(config.transformer)
        # The same layers with the same fields: transformers finds what it can checkpoint by class.
        for layer in self.transformer.decoder:
            layer.__class__ = CheckpointedDecoderLayer
        for layer in self.transformer.encoder:
            layer.__class__ = CheckpointedEncoderLayer
        self.register_load_state_dict_pre_hook(_with_prefix)
        self.post_init()
        if self.generation_config.forced_bos_token_id is None:  # a file may say otherwise
            self.generation_config.forced_bos_token_id = self.transformer.config.first_token

    def _init_weights(self, module: nn.Module) -> None:
        """Fill a module as `Transformer` does, except what a file has filled already."""
        config = self.transformer.config
        if isinstance(module, PositionEmbedding | RotaryPositions):
            fresh = type(module)(config)
            for name, table in fresh.named_buffers():
                init.copy_(module.get_buffer(name), table)
        if isinstance(module, RelativeBias):
            init.zeros_(module.table)
        if isinstance(module, PositionEmbedding) and isinstance(module.table, nn.Parameter):
            init.normal_(module.table, std=0.5**0.5)
        elif isinstance(module, MarkovHead):
            init.zeros_(module.following)
        elif isinstance(module, nn.Linear):
            init.xavier_uniform_(module.weight)
            if module.bias is not None:
                init.zeros_(module.bias)
            if isinstance(module, AdaptedLinear):
                init.normal_(module.down, std=module.in_features**-0.5)
                init.zeros_(module.up)
        elif module is self.transformer.reach.beyond_one:
            init.zeros_(module.weight)
        elif isinstance(module, nn.Embedding):
            fresh_row = not getattr(module.weight, "_is_hf_initialized", False)
            init.normal_(module.weight, std=module.embedding_dim**-0.5)
            if module.padding_idx is not None and fresh_row:
                init.zeros_(module.weight.data[module.padding_idx])
        elif isinstance(module, nn.LayerNorm | nn.RMSNorm):
            init.ones_(module.weight)
            if getattr(module, "bias", None) is not None:
                init.zeros_(module.bias)
        elif isinstance(module, Transformer) and module.output_bias is not None:
            init.zeros_(module.output_bias)

    @cached_property
    def measured(self) -> Measured:
        """Return what the directory holds that the model was read from, calibration and phrases;
        read when it is first asked for.
        """
        place = Path(self.config._name_or_path or "")
        known = place if (place / "config.json").is_file() else None
        return Measured.read(known, self.transformer.config)

    @property
    def phrases(self) -> PhraseTable | None:
        """Return the table of phrases of that directory."""
        return self.measured.phrases

    def get_input_embeddings(self) -> nn.Module:
        """Return the embedding of target tokens."""
        return self.transformer.target_embedding

    def set_input_embeddings(self, value: nn.Embedding) -> None:
        """Replace the embedding of target tokens."""
        self.transformer.target_embedding = value

    def get_output_embeddings(self) -> nn.Module | None:
        """Return the output matrix; None where it is the embedding."""
        return None if self.transformer.config.tie_embeddings else self.transformer.output

    def set_output_embeddings(self, value: nn.Linear) -> None:
        """Replace the output matrix, where there is one of its own."""
        self.transformer.output = value

    def resize_token_embeddings(
        self,
        new_num_tokens: int | None = None,
        pad_to_multiple_of: int | None = None,
        mean_resizing: bool = True,
    ) -> nn.Embedding:
        """Resize every table over the vocabulary; new rows are made as transformers makes them."""
        embedding: nn.Embedding = super().resize_token_embeddings(
            new_num_tokens, pad_to_multiple_of, mean_resizing
        )
        ours, size = self.transformer, embedding.weight.shape[0]
        if size == ours.config.vocabulary_size:
            return embedding
        if hasattr(ours, "source_embedding"):
            ours.source_embedding = self._get_resized_embeddings(
                ours.source_embedding, size, mean_resizing=mean_resizing
            )
        if ours.output_bias is not None:
            ours.output_bias = nn.Parameter(_longer(ours.output_bias, size))
        if ours.markov is not None:
            ours.markov.previous.weight = nn.Parameter(_longer(ours.markov.previous.weight, size))
            ours.markov.previous.num_embeddings = size
            ours.markov.following = nn.Parameter(_longer(ours.markov.following, size))
        self.config.vocabulary_size = size
        ours.config = self.config.transformer
        return embedding

    def generate(
        self,
        inputs: Tensor | None = None,
        generation_config: Any = None,
        custom_generate: Any = generate,
        **settings: Any,
    ) -> Any:
        """Generate by our loop, see `multistride.hf.generate`; with `custom_generate=None` by that
        of transformers.

        At K=1 settings that only the loop of transformers knows (processors, criteria, scores) are
        given to it; with groups they raise `UsageError`.
        """
        self._check_whole()
        self._check_inputs(inputs, settings)
        if not isinstance(generation_config, GenerationConfig | None):
            raise UsageError(
                f"generation_config is {generation_config!r} ({type(generation_config).__name__}), "
                "and a GenerationConfig is read: give GenerationConfig(...), or its settings as "
                "arguments of generate"
            )
        types = settings.get("token_type_ids")
        if types is not None and not bool(types.any()):
            del settings["token_type_ids"]  # tokenizers of older directories return them
        settings = self._with_ends(inputs, settings)
        stored = self.generation_config if generation_config is None else None
        if settings.get("max_new_tokens", getattr(stored, "max_new_tokens", None)) is not None:
            settings.setdefault("max_length", None)  # else transformers warns of two limits
        if settings.get("inputs") is not None:
            inputs = settings.pop("inputs")
        if custom_generate is not generate:
            return super().generate(
                inputs, generation_config, custom_generate=custom_generate, **settings
            )
        start = self.transformer.config.start_token if self.encoder_decoder else None
        request = requested(self.generation_config, generation_config, settings, start)
        if request.one_by_one:
            return super().generate(
                inputs, generation_config, **hand_over(request, self.transformer.config)
            )
        settings = request.settings
        if settings.get("streamer") is not None:
            settings["group_streamer"] = settings["streamer"]
        if generation_config is None:
            settings["use_cache"] = False  # our loop has its own cache
        else:  # transformers warns of settings beside a configuration
            generation_config = deepcopy(generation_config)
            generation_config.use_cache = False
        return super().generate(inputs, generation_config, custom_generate=generate, **settings)

    def _check_inputs(self, inputs: Any, settings: dict[str, Any]) -> None:
        """Raise `UsageError` for inputs that are no tokens of this model."""
        source = settings.get("input_ids", settings.get("inputs")) if inputs is None else inputs
        if source is None:
            return
        real = isinstance(source, Tensor) and source.is_floating_point()
        if real or not isinstance(source, Tensor) or source.dim() != 2:
            shape = list(source.shape) if isinstance(source, Tensor) else type(source).__name__
            kind = f"{source.dtype} " if real else ""
            raise UsageError(
                f"inputs are {kind}{shape}, and tokens [batch, length] are read: "
                'give model.generate(**tokenizer(texts, return_tensors="pt", padding=True))'
            )
        ours = self.transformer
        table = getattr(ours, "source_embedding", None) or ours.target_embedding
        if source.numel() and not 0 <= int(source.min()) <= int(source.max()) < len(table.weight):
            raise UsageError(
                f"inputs hold tokens from {int(source.min())} to {int(source.max())}, and this "
                f"model knows 0 to {len(table.weight) - 1}: use the tokenizer of its directory"
            )
        mask = settings.get("attention_mask")
        continued = settings.get("past_key_values") is not None or settings.get("cache") is not None
        if mask is not None and source.shape[1] and not continued:
            check_mask(mask, *source.shape)

    def _check_whole(self) -> None:
        """Raise `UsageError` for a model whose parts `device_map` put in several places."""
        places = set((getattr(self, "hf_device_map", None) or {}).values())
        if len(places) > 1 or "disk" in places:
            named = ", ".join(sorted(map(str, places)))
            raise UsageError(
                f"device_map put parts of this model on {named}, and it computes in one place: "
                'give device_map={"": 0}, or leave it out'
            )

    def _with_ends(self, inputs: Tensor | None, settings: dict[str, Any]) -> dict[str, Any]:
        """Return the settings with sources that all end in EOS, as every source of ours does."""
        source = settings.get("input_ids") if inputs is None else inputs
        if not self.encoder_decoder or source is None or settings.get("encoder_outputs"):
            return settings
        source, mask = ended(source, settings.get("attention_mask"), self.transformer.config)
        name = "input_ids" if inputs is None else "inputs"
        return {**settings, name: source, "attention_mask": mask}

    def save_pretrained(
        self, save_directory: Any, *, state_dict: dict[str, Tensor] | None = None, **settings: Any
    ) -> None:
        """Write a model directory; the tokenizer, card, provenance, phrases and draft head come
        along from where the model was read, and the calibration unless weights have changed.
        """
        if Path(save_directory).is_file():
            raise UsageError(f"{save_directory} is a file: name a directory to write")
        tensors = self.state_dict() if state_dict is None else state_dict
        names = {name.removeprefix("transformer."): tensor for name, tensor in tensors.items()}
        super().save_pretrained(save_directory, state_dict=names, **settings)
        directory = Path(save_directory)
        write_modeling(directory, self.transformer.config)
        if not self.config._name_or_path:
            return
        origin = Path(self.config._name_or_path)
        whole = (directory / TOKENIZER_CONFIG_FILE).exists()  # a tokenizer without a template, too
        for name in _BESIDE if whole else (*_BESIDE, CHAT_TEMPLATE_FILE):
            if (origin / name).is_file() and not (directory / name).exists():
                shutil.copyfile(origin / name, directory / name)
        for name in (CALIBRATION, TEMPERATURE):
            _carry(origin, directory, name)

    @classmethod
    def register_for_auto_class(cls, auto_class: Any = "AutoModel") -> None:
        """Do nothing: directories name their classes in `auto_map` and need no copy of this
        code.
        """

    def _checkpointing(self) -> bool:
        """Return whether layers are computed again on the way back, which no cache survives."""
        layers = [*self.transformer.decoder, *self.transformer.encoder]
        return self.training and any(layer.gradient_checkpointing for layer in layers)

    def _set_gradient_checkpointing(
        self, enable: bool = True, gradient_checkpointing_func: Any = None, **others: Any
    ) -> None:
        """Checkpoint the layers. Raises `UsageError` for the reentrant kind in an encoder-decoder:
        it sees no gradient of the source, whose keys and values are computed once for all layers.
        """
        reentrant = getattr(gradient_checkpointing_func, "keywords", {}).get("use_reentrant")
        if enable and reentrant and self.encoder_decoder:
            raise UsageError(
                "use_reentrant True was asked for, and an encoder-decoder has gradients that it "
                "does not see: give gradient_checkpointing_kwargs={'use_reentrant': False}"
            )
        if gradient_checkpointing_func is not None:
            others["gradient_checkpointing_func"] = gradient_checkpointing_func
        super()._set_gradient_checkpointing(enable, **others)

    def _recording(
        self, layers: Iterable[nn.Module], hidden: Any, attentions: Any, started: bool = False
    ) -> AbstractContextManager[Recorded]:
        """Return what records a pass, if anything of it was asked for."""
        explicit = bool(attentions) or self.config._attn_implementation == "eager"
        return recording(layers, bool(hidden), explicit, int(started))


class MultistrideForCausalLM(_Multistride):
    """A causal model: token by token as transformers does, or K at a time by `generate`."""

    @can_return_tuple  # type: ignore[untyped-decorator]
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        cache: Any = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        past_key_values: Any = None,
        **loss: Any,
    ) -> CausalLMOutputWithPast:
        """Return the logits [B, T, V] of the token after each, and the loss given `labels` [B, T]
        (-100: none).

        The mask [B, M] covers cached tokens too. A model that begins with a start symbol reads it
        first, without being given it. `loss` may hold `num_items_in_batch` and `shift_labels`.
        """
        config = self.config
        past = _past(cache, past_key_values)
        if past is None and _or(use_cache, config.use_cache) and not self._checkpointing():
            past = DynamicCache()
        self._check_whole()
        tokens = _tokens(input_ids, inputs_embeds)
        columns = tokens.shape[1]
        order, real = _order(tokens, attention_mask, past)
        if position_ids is None:
            _check_length(self.transformer, order)
        group = torch.where(real, order, PADDING_GROUP)
        position = order[:, -columns:] if position_ids is None else position_ids + 1
        slots = Slots(tokens, position, torch.ones_like(position), group[:, -columns:])
        mask = visibility(slots.group, group)[:, None]
        transformer, start = self.transformer, []
        within = transformer.config.start_symbol and self._checkpointing()
        if within:  # keys that leave a checkpointed layer have no gradient
            slots = _with_start(slots, transformer.config.start_token)
            mask = visibility(slots.group, slots.group)[:, None]
        elif transformer.config.start_symbol:
            start = _start_keys(transformer)
        if past is not None:
            mask = pad(mask, (0, _capacity(past, columns) - mask.shape[-1]))
        if start:
            mask = pad(mask, (1, 0), value=True)
        layers: list[LayerCache] | None = None
        if past is not None or start:
            layers = [
                _TheirLayer(past, index, start[index] if start else None)
                for index in range(len(transformer.decoder))
            ]
        if layers is not None and transformer.config.by_distance:
            first = position.new_zeros(len(position), len(start[:1]))
            layers.append(_Positions(torch.cat([first, order[:, :-columns], position], 1), mask))
        hidden_too = _or(output_hidden_states, config.output_hidden_states)
        weights_too = _or(output_attentions, config.output_attentions)
        with (
            self._recording(transformer.decoder, hidden_too, weights_too, bool(start)) as recorded,
            _embedded(transformer.target_embedding, inputs_embeds, within),
        ):
            hidden = transformer.decode(slots, mask, [], None, layers)
        hidden = hidden[:, 1:] if within else hidden
        logits = transformer.project(_kept(hidden, logits_to_keep))
        given = {_PAST: past if _or(use_cache, config.use_cache) else None}
        return CausalLMOutputWithPast(
            loss=_causal_loss(logits, labels, **loss),
            logits=logits,
            hidden_states=(*recorded.hidden, hidden) if hidden_too else None,
            attentions=tuple(recorded.attentions) if weights_too else None,
            **given,
        )


class MultistrideForSeq2SeqLM(_Multistride):
    """An encoder-decoder: token by token as transformers does, or K at a time by `generate`."""

    encoder_decoder = True

    def get_encoder(self, *unused: Any, **also_unused: Any) -> nn.Module:
        """Return the encoder, which transformers calls before it generates."""
        return Encoder(self)

    def _moved_on(self, labels: Tensor | None) -> Tensor:
        """Return the decoder's input for labels. Raises `UsageError` if there are none."""
        if labels is None:
            raise UsageError("neither decoder_input_ids nor labels were given: give one of them")
        return self.prepare_decoder_input_ids_from_labels(labels)

    def prepare_decoder_input_ids_from_labels(self, labels: Tensor) -> Tensor:
        """Return what the decoder reads to write the labels: those moved on by one."""
        config = self.transformer.config
        moved = pad(labels[:, :-1], (1, 0), value=config.start_token)
        return moved.masked_fill(moved == NO_LABEL, config.pad_token)

    @can_return_tuple  # type: ignore[untyped-decorator]
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        decoder_input_ids: Tensor | None = None,
        decoder_attention_mask: Tensor | None = None,
        encoder_outputs: Any = None,
        cache: Any = None,
        inputs_embeds: Tensor | None = None,
        decoder_inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        past_key_values: Any = None,
        **loss: Any,
    ) -> Seq2SeqLMOutput:
        """Return the logits [B, T, V] of what follows each of `decoder_input_ids`, which begin with
        the start symbol.

        With `labels` [B, T] (-100: none) and no decoder input, that is the labels moved on by one.
        Sources are read as they are: they should end in EOS. `loss` may hold `num_items_in_batch`.
        """
        config = self.config
        self._check_whole()
        hidden_too = _or(output_hidden_states, config.output_hidden_states)
        weights_too = _or(output_attentions, config.output_attentions)
        encoded = _encoder_output(encoder_outputs) or self.get_encoder()(
            input_ids,
            attention_mask,
            inputs_embeds=inputs_embeds,
            output_attentions=weights_too,
            output_hidden_states=hidden_too,
            return_dict=True,
        )
        if decoder_input_ids is None and decoder_inputs_embeds is None:
            decoder_input_ids = self._moved_on(labels)
        past = _past(cache, past_key_values)
        if past is None and _or(use_cache, config.use_cache) and not self._checkpointing():
            past = EncoderDecoderCache(DynamicCache(), DynamicCache())
        tokens = _tokens(decoder_input_ids, decoder_inputs_embeds)
        check_mask(attention_mask, *encoded.last_hidden_state.shape[:2])
        columns = tokens.shape[1]
        order, real = _order(tokens, decoder_attention_mask, past)
        _check_length(self.transformer, order)
        group = torch.where(real, order - 1, PADDING_GROUP)
        position = (order[:, -columns:] - 1).clamp(min=0)
        slots = Slots(tokens, position, torch.ones_like(position), group[:, -columns:])
        mask = visibility(slots.group, group)[:, None]
        transformer = self.transformer
        layers: list[LayerCache] | None = None
        if past is not None:
            own = past.self_attention_cache
            mask = pad(mask, (0, _capacity(own, columns) - mask.shape[-1]))
            layers = [_TheirLayer(own, index, None) for index in range(len(transformer.decoder))]
            if transformer.config.by_distance:
                layers.append(_Positions((order - 1).clamp(min=0), mask))
        source = _projected(transformer, encoded.last_hidden_state, past)
        source_mask = None if attention_mask is None else attention_mask.bool()[:, None, None]
        with (
            self._recording(transformer.decoder, hidden_too, weights_too) as recorded,
            _embedded(transformer.target_embedding, decoder_inputs_embeds),
        ):
            hidden = transformer.decode(slots, mask, source, source_mask, layers)
        logits = transformer.project(hidden)
        given = {_PAST: past if _or(use_cache, config.use_cache) else None}
        return Seq2SeqLMOutput(
            loss=_loss(logits, labels, **loss),
            logits=logits,
            decoder_hidden_states=(*recorded.hidden, hidden) if hidden_too else None,
            decoder_attentions=tuple(recorded.attentions) if weights_too else None,
            cross_attentions=tuple(recorded.cross) if weights_too else None,
            encoder_last_hidden_state=encoded.last_hidden_state,
            encoder_hidden_states=encoded.hidden_states,
            encoder_attentions=encoded.attentions,
            **given,
        )


def _order(tokens: Tensor, mask: Tensor | None, past: Any) -> tuple[Tensor, Tensor]:
    """Return the place of each cached and new token among the real ones of its row, from 1, and
    which are real, both [B, M].
    """
    known = 0 if past is None else int(past.get_seq_length())
    everything = tokens.new_ones(len(tokens), known + tokens.shape[1], dtype=torch.bool)
    check_mask(mask, *everything.shape)
    real = everything if mask is None else mask.bool()
    return real.long().cumsum(1), real


def _check_length(transformer: Transformer, order: Tensor) -> None:
    """Raise `UsageError` for more tokens than a table of positions has; others have no end."""
    config = transformer.config
    if config.positions not in ("sinusoidal", "learned") or order.shape[1] <= config.max_positions:
        return
    longest = int(order.max()) if order.numel() else 0
    if longest > config.max_positions:
        raise UsageError(
            f"{longest} tokens were given, and this model has {config.max_positions} positions: "
            "cut the text, or lower max_new_tokens"
        )


def _encoder_output(given: Any) -> BaseModelOutput | None:
    """Return the encoder's output in transformers' class; None if it was not given."""
    if given is None or isinstance(given, BaseModelOutput):
        return given
    return BaseModelOutput(*tuple(given))


class Encoder(nn.Module):
    """The encoder as transformers calls it. Padding may stand on either side."""

    main_input_name = "input_ids"

    def __init__(self, model: MultistrideForSeq2SeqLM) -> None:
        super().__init__()
        self.transformer, self.config = model.transformer, model.config
        self._recording = model._recording

    @can_return_tuple  # type: ignore[untyped-decorator]
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        **unused: Any,
    ) -> BaseModelOutput:
        """Return the encoded sources [B, S, D], in the columns they were given in."""
        tokens = _tokens(input_ids, inputs_embeds)
        check_mask(attention_mask, *tokens.shape)
        mask = torch.ones_like(tokens) if attention_mask is None else attention_mask.long()
        # Our encoder counts places from the left, so padding goes to the right and back again.
        order = mask.argsort(dim=1, descending=True, stable=True)
        if inputs_embeds is not None:
            inputs_embeds = _in_order(inputs_embeds, order)
        transformer = self.transformer
        _check_length(transformer, mask.cumsum(1))
        tied = transformer.config.tie_embeddings
        table = transformer.target_embedding if tied else transformer.source_embedding
        with (
            self._recording(
                transformer.encoder, output_hidden_states, output_attentions
            ) as recorded,
            _embedded(table, inputs_embeds),
        ):
            encoded, _ = transformer.encode(tokens.gather(1, order), mask.sum(1))
        back, left = order.argsort(dim=1), bool((order[:, 1:] > order[:, :-1]).all())
        hidden = [*recorded.hidden, encoded]
        if not left:
            hidden = [_in_order(states, back) for states in hidden]
        attentions = [
            weights if left else _both_in_order(weights, back) for weights in recorded.attentions
        ]
        return BaseModelOutput(
            last_hidden_state=hidden[-1],
            hidden_states=tuple(hidden) if output_hidden_states else None,
            attentions=tuple(attentions) if output_attentions else None,
        )


class _TheirLayer(LayerCache):
    """One layer of a cache of transformers, behind the keys of a start symbol if there is one."""

    def __init__(self, cache: Any, index: int, start: KeyValue | None) -> None:
        super().__init__()
        self._cache, self._index, self._start = cache, index, start

    def append(self, key: Tensor, value: Tensor) -> KeyValue:
        """Add the keys and values of new slots; return those of all slots so far."""
        if self._cache is not None:
            key, value = self._cache.update(key, value, self._index)
        if self._start is None:
            return key, value
        first = [part.expand(len(key), -1, -1, -1) for part in self._start]
        return torch.cat([first[0], key], dim=2), torch.cat([first[1], value], dim=2)


class _Positions(LayerCache):
    """The positions of cached and new slots, which transformers' caches do not keep."""

    def __init__(self, position: Tensor, mask: Tensor) -> None:
        super().__init__()
        self._position = pad(position, (0, mask.shape[-1] - position.shape[1]))

    def append(self, key: Tensor, value: Tensor) -> KeyValue:
        """Return the positions of all slots; the new ones are known already."""
        known = self._position[:, None, :, None].float()
        return known, known


class _Kept(LayerCache):
    """The keys and values of one slot, kept as they are."""

    pair: KeyValue

    def append(self, key: Tensor, value: Tensor) -> KeyValue:
        """Keep them and return them."""
        self.pair = key, value
        return self.pair


def _start_keys(transformer: Transformer) -> list[KeyValue]:
    """Return the keys and values [1, H, 1, E] that a start symbol leaves in each layer.

    It sees nothing before it, so it is the same in every sentence, and in no cache.
    """
    device = transformer.target_embedding.weight.device
    zero = torch.zeros(1, 1, dtype=torch.long, device=device)
    slots = Slots(zero + transformer.config.start_token, zero, zero + 1, zero)
    layers = [_Kept() for _ in range(transformer.cache_count)]
    transformer.decode(slots, None, [], None, list(layers))
    return [layer.pair for layer in layers]


def _with_start(slots: Slots, start_token: int) -> Slots:
    """Return slots [B, 1 + T] that begin with a start symbol."""
    zero = slots.token.new_zeros(len(slots.token), 1)
    first = Slots(zero + start_token, zero, zero + 1, zero)
    return Slots(*(torch.cat(pair, dim=1) for pair in zip(first, slots, strict=True)))


def _projected(transformer: Transformer, encoded: Tensor, past: Any) -> list[KeyValue]:
    """Return the keys and values of the source in every layer, from the cache where it has
    them.
    """
    if past is None:
        return transformer.project_source(encoded)
    cross, count = past.cross_attention_cache, len(transformer.decoder)
    if all(past.is_updated.get(index) for index in range(count)):
        return [(cross.layers[index].keys, cross.layers[index].values) for index in range(count)]
    projected = transformer.project_source(encoded)
    for index, (key, value) in enumerate(projected):
        projected[index] = cross.update(key, value, index)
        past.is_updated[index] = True
    return projected


def _embedded(
    table: nn.Module, vectors: Tensor | None, started: bool = False
) -> AbstractContextManager[Any]:
    """Return what makes `vectors` [B, T, D] the embedding of whatever tokens are looked up, less
    the first one of each row if it `started` with a symbol of its own.
    """
    if vectors is None:
        return nullcontext()

    def exchanged(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        return torch.cat([output[:, :1], vectors], dim=1) if started else vectors

    return _Removed(table.register_forward_hook(exchanged))


class _Removed(AbstractContextManager[Any]):
    """Removes a hook in the end."""

    def __init__(self, handle: Any) -> None:
        self._handle = handle

    def __exit__(self, *error: object) -> None:
        self._handle.remove()


def _tokens(tokens: Tensor | None, vectors: Tensor | None) -> Tensor:
    """Return the tokens [B, T], or stand-ins where their embeddings were given."""
    if (tokens is None) == (vectors is None):
        raise ValueError("You must specify exactly one of input_ids or inputs_embeds")
    if tokens is not None:
        return tokens
    assert vectors is not None
    return torch.zeros(vectors.shape[:2], dtype=torch.long, device=vectors.device)


def check_mask(mask: Tensor | None, rows: int, columns: int) -> None:
    """Raise `UsageError` unless a mask is [rows, columns], 0 where there is padding."""
    if mask is None:
        return
    if mask.dim() != 2:
        raise UsageError(
            f"the attention mask has {mask.dim()} dimensions; it must be [batch, tokens]: "
            "leave masks of four dimensions and static caches out"
        )
    if tuple(mask.shape) != (rows, columns):
        raise UsageError(
            f"the attention mask is {list(mask.shape)}, and there are {[rows, columns]} tokens, "
            "cached ones included: give one number for each"
        )
    if mask.is_floating_point() and bool((mask < 0).any()):
        raise UsageError(
            "the attention mask has numbers below 0, as masks that are added do: give 1 for "
            "tokens and 0 for padding"
        )


def _past(cache: Any, past_key_values: Any) -> Any:
    """Return the cache that was given, under its present or its former name."""
    for given in (cache, past_key_values):
        if given is not None and not hasattr(given, "get_seq_length"):
            raise UsageError(
                f"the cache is a {type(given).__name__}; give a DynamicCache, in an "
                "encoder-decoder an EncoderDecoderCache"
            )
    if past_key_values is None:
        return cache
    if _PAST == "cache":
        warnings.warn("`past_key_values` is deprecated: give `cache`", FutureWarning, stacklevel=4)
    return past_key_values


def _capacity(past: Any, columns: int) -> int:
    """Return how many keys attention will see once `columns` are added to a cache."""
    if isinstance(past, DynamicCache):
        return int(past.get_seq_length()) + columns
    return int(past.get_mask_sizes(columns, 0)[0])


def _kept(hidden: Tensor, keep: int | Tensor) -> Tensor:
    """Return the last states, or those at the given places; 0: all."""
    return hidden[:, slice(-keep, None) if isinstance(keep, int) else keep]


def _or(given: Any, otherwise: Any) -> Any:
    return otherwise if given is None else given


def _in_order(states: Tensor, order: Tensor) -> Tensor:
    """Return [B, S, D] with the columns of each row in the given order [B, S]."""
    return states.gather(1, order[..., None].expand(-1, -1, states.shape[2]))


def _both_in_order(weights: Tensor, order: Tensor) -> Tensor:
    """Return [B, H, S, S] with queries and keys in the given order [B, S]."""
    rows = order[:, None, :, None].expand_as(weights)
    columns = order[:, None, None, :].expand_as(weights)
    return weights.gather(2, rows).gather(3, columns)


def _causal_loss(
    logits: Tensor, labels: Tensor | None, shift_labels: Tensor | None = None, **loss: Any
) -> Tensor | None:
    """Return the loss of the tokens after each; `shift_labels` are labels moved already."""
    if shift_labels is None and labels is not None:
        shift_labels = pad(labels[:, 1:], (0, 1), value=NO_LABEL)
    return _loss(logits, shift_labels, **loss)


def _loss(
    logits: Tensor,
    labels: Tensor | None,
    num_items_in_batch: Tensor | int | None = None,
    **others: Any,
) -> Tensor | None:
    """Return the mean cross-entropy, or its sum divided by `num_items_in_batch`, so that batches
    that are accumulated weigh by their tokens.

    Raises `UsageError` for an argument of `forward` that no model here has a use for.
    """
    for name, value in others.items():
        empty = name == "token_type_ids" and value is not None and not bool(value.any())
        if value is not None and not empty and name not in _OF_THEIR_LOOP:
            raise UsageError(f"forward has no argument {name}: leave it out")
    if labels is None:
        return None
    if labels.shape != logits.shape[:2]:
        raise UsageError(
            f"labels are {list(labels.shape)}, and there are logits of {list(logits.shape[:2])} "
            "tokens: give one label for each, -100 for none"
        )
    reduction = "mean" if num_items_in_batch is None else "sum"
    loss = cross_entropy(
        logits.flatten(0, 1).float(),
        labels.to(logits.device).flatten().long(),
        ignore_index=NO_LABEL,
        reduction=reduction,
    )
    return loss if num_items_in_batch is None else loss / num_items_in_batch


_OF_THEIR_LOOP = (
    *("is_first_iteration", "cache_position", "return_dict"),
    *("tokenizer", "assistant_tokenizer", "assistant_model", "inputs_tensor"),
)
"""What the loop of transformers tells every model; nothing here depends on it."""


def _longer(table: Tensor, size: int) -> Tensor:
    """Return a table with `size` rows; new ones are zero, which adds nothing to any score."""
    rows = table.detach()[:size]
    return torch.cat([rows, rows.new_zeros(size - len(rows), *rows.shape[1:])])


def _carry(origin: Path, directory: Path, name: str) -> None:
    """Write a calibration of the original for a copy of its weights, whose file has a digest of its
    own; nothing for other weights.
    """
    weights = [origin / WEIGHTS, directory / WEIGHTS]
    if (directory / name).exists() or not all(map(Path.is_file, [origin / name, *weights])):
        return
    calibration = read_object(origin / name)
    if calibration.get("model_sha256") == weights_digest(origin) and _same_tensors(*weights):
        calibration["model_sha256"] = weights_digest(directory)
        (directory / name).write_text(as_json(calibration), encoding="utf-8")


def _same_tensors(first: Path, second: Path) -> bool:
    """Return True if two files hold the same numbers, be it in another precision."""
    with safe_open(first, framework="pt") as one, safe_open(second, framework="pt") as other:
        return set(one.keys()) == set(other.keys()) and all(
            one.get_tensor(name).float().equal(other.get_tensor(name).float())
            for name in one.keys()  # noqa: SIM118, it is no dictionary
        )


def _with_prefix(module: nn.Module, tensors: dict[str, Tensor], prefix: str, *rest: Any) -> None:
    """Let a state dict of a model directory fit, whose names have no `transformer.` before them."""
    begin = f"{prefix}transformer."
    for name in [name for name in tensors if name.startswith(prefix)]:
        if not name.startswith(begin):
            tensors[begin + name.removeprefix(prefix)] = tensors.pop(name)
