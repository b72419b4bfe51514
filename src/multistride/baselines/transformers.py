"""Decoding at K=1 by Hugging Face transformers' `generate` in float32: a baseline.

Pegasus is the Transformer with layer normalisation before each sublayer, Marian the one with it
after; both multiply embeddings by the root of the width, end in no bias that is not zero, and take
any table of positions. So each of our encoder-decoder models is one of them, number for number,
which is checked before anything is decoded.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from multistride.baselines.expressible import check_expressible
from multistride.errors import MissingExtraError, UsageError
from multistride.groups import equal_sizes, teacher_forced
from multistride.model.config import TransformerConfig
from multistride.model.layers import PositionEmbedding
from multistride.model.transformer import Transformer

try:
    import transformers
except ImportError:  # TransformersEngine says so
    transformers = None

TOLERANCE = 1e-4
"""How far a logit may lie from ours."""


class TransformersEngine:
    """A model as transformers has it, on the CPU. It is no `StepModel`: `generate` owns its
    loop.
    """

    def __init__(self, model: Transformer) -> None:
        """Copy the weights of `model` and compare logits.

        Raises `MissingExtraError` without transformers and `UsageError` for a model it cannot
        express.
        """
        if transformers is None:
            raise MissingExtraError(
                "the baseline transformers-float32 was asked for and transformers is not "
                "installed: "
                "pip install 'multistride[bench]', or leave it out of --against"
            )
        self.config = model.config
        self._model: Any = _converted(model)
        _compare(model, self._model)

    @torch.inference_mode()
    def greedy(self, sources: Sequence[Sequence[int]], limit: int) -> list[list[int]]:
        """Decode one batch of sources (no EOS), at most `limit` tokens each, EOS included."""
        rows = [torch.tensor([*source, self.config.end_token]) for source in sources]
        source = torch.nn.utils.rnn.pad_sequence(
            rows, batch_first=True, padding_value=self.config.pad_token
        )
        lengths = torch.tensor([len(row) for row in rows])
        real = torch.arange(source.shape[1]) < lengths[:, None]
        written = self._model.generate(
            input_ids=source, attention_mask=real.long(), max_new_tokens=limit
        )
        return [self._cut(row) for row in written[:, 1:].tolist()]

    def _cut(self, tokens: list[int]) -> list[int]:
        end = self.config.end_token
        return tokens[: tokens.index(end) + 1] if end in tokens else tokens


def _converted(model: Transformer) -> Any:
    config = model.config
    check_expressible(config, "the baseline transformers-float32", encoder=True)
    assert isinstance(model.position, PositionEmbedding)
    before = config.norm == "pre"
    names = (
        ("PegasusConfig", "PegasusForConditionalGeneration")
        if before
        else ("MarianConfig", "MarianMTModel")
    )
    make_config, make_model = (getattr(transformers, name) for name in names)
    positions = model.position.table.shape[0]
    sizes = {
        "vocab_size": config.vocabulary_size,
        "d_model": config.hidden_size,
        "encoder_layers": config.encoder_layers,
        "decoder_layers": config.decoder_layers,
        "encoder_attention_heads": config.heads,
        "decoder_attention_heads": config.heads,
        "encoder_ffn_dim": config.feedforward_size,
        "decoder_ffn_dim": config.feedforward_size,
        "max_position_embeddings": positions,
        "activation_function": config.activation,
        "scale_embedding": True,
        "tie_word_embeddings": config.tie_embeddings,
    }
    symbols = {
        "pad_token_id": config.pad_token,
        "eos_token_id": config.end_token,
        "bos_token_id": config.start_token,
        "decoder_start_token_id": config.start_token,
        "forced_eos_token_id": None,
    }
    converted = make_model(make_config(**sizes, **symbols)).eval()
    _fill(model, converted)
    converted.generation_config = transformers.GenerationConfig(
        do_sample=False, num_beams=1, **symbols
    )
    return converted


@torch.inference_mode()
def _fill(model: Transformer, converted: Any) -> None:
    """Write our weights over its own; it must have a place for each that says something at K=1."""
    state = {name: torch.zeros_like(tensor) for name, tensor in converted.state_dict().items()}
    assert isinstance(model.position, PositionEmbedding)
    target = model.target_embedding.weight
    tied = model.config.tie_embeddings
    tables = {
        "model.shared": target,
        "model.decoder.embed_tokens": target,
        "model.encoder.embed_tokens": target if tied else model.source_embedding.weight,
        "lm_head": target if tied else model.output.weight,
        "model.encoder.embed_positions": model.position.table,
        "model.decoder.embed_positions": model.position.table,
    }
    found = {f"{name}.weight": table for name, table in tables.items()}
    for side in ("encoder", "decoder"):
        if model.config.norm == "pre":
            found.update(
                _renamed(f"model.{side}.layer_norm", getattr(model, f"{side}_norm").state_dict())
            )
        for number, layer in enumerate(getattr(model, side)):
            found.update(_layer(f"model.{side}.layers.{number}", layer.state_dict()))
    _untie(converted)
    converted.load_state_dict(
        {**state, **{name: value.clone() for name, value in found.items()}}, strict=True
    )
    if tied:
        for place in _tables(converted):
            place.weight = converted.model.shared.weight


def _untie(converted: Any) -> None:
    """Give source, target and output a matrix each, or loading would overwrite one by another."""
    for place in _tables(converted):
        place.weight = torch.nn.Parameter(place.weight.detach().clone())


def _tables(converted: Any) -> list[Any]:
    return [
        converted.model.encoder.embed_tokens,
        converted.model.decoder.embed_tokens,
        converted.lm_head,
    ]


def _layer(place: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Our names to theirs; queries, keys and values are one matrix with us."""
    found = {}
    for name, tensor in state.items():
        module, kind = name.rsplit(".", 1)
        parts = tensor.chunk(len(_NAMES[module]))
        found.update(
            {f"{place}.{new}.{kind}": part for new, part in zip(_NAMES[module], parts, strict=True)}
        )
    return found


_NAMES = {
    "attention.input": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "attention.output": ("self_attn.out_proj",),
    "around_attention.norm": ("self_attn_layer_norm",),
    "cross.query": ("encoder_attn.q_proj",),
    "cross.key_value": ("encoder_attn.k_proj", "encoder_attn.v_proj"),
    "cross.output": ("encoder_attn.out_proj",),
    "around_cross.norm": ("encoder_attn_layer_norm",),
    "feedforward.widen": ("fc1",),
    "feedforward.narrow": ("fc2",),
    "around_feedforward.norm": ("final_layer_norm",),
}


def _renamed(place: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"{place}.{kind}": tensor for kind, tensor in state.items()}


@torch.inference_mode()
def _compare(model: Transformer, converted: Any) -> None:
    """Raise `UsageError` unless both give the same logits for sources of unequal length."""
    source, lengths, target = _probe(model.config)
    slots, _ = teacher_forced(
        target, torch.full((2,), 4), equal_sizes(torch.full((2,), 4), 1), model.config.start_token
    )
    ours = model.project(model(source, lengths, slots))
    real = (torch.arange(source.shape[1]) < lengths[:, None]).long()
    theirs = converted(input_ids=source, attention_mask=real, decoder_input_ids=slots.token).logits
    apart = float((ours - theirs).abs().max())
    if apart > TOLERANCE * max(1.0, float(ours.abs().max())):
        raise UsageError(
            f"the baseline transformers-float32 was asked for, but its logits are {apart:.2g} from "
            "ours: "
            "this model is none that transformers has; leave it out of --against"
        )


def _probe(config: TransformerConfig) -> tuple[Tensor, Tensor, Tensor]:
    """Two sources of 6 and 3 tokens, padded, their lengths, and four target tokens of each."""
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(config.vocabulary_size, (2, 10), generator=generator)
    lengths = torch.tensor([6, 3])
    source = tokens[:, :6].masked_fill(torch.arange(6) >= lengths[:, None], config.pad_token)
    return source, lengths, tokens[:, 6:]
