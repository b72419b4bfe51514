"""Small models of every layout that is converted, and steps that compare an engine with eager."""

import torch
from torch import nn

from multistride.engines.eager import EagerStepModel
from multistride.groups import PADDING_GROUP, Slots
from multistride.model.config import TransformerConfig
from multistride.model.transformer import Transformer

SIZES = {"vocabulary_size": 40, "hidden_size": 32, "feedforward_size": 48, "decoder_layers": 2}
CAUSAL = {"encoder_layers": 0, "start_symbol": False, "max_positions": 96, "never_written": ()}
ROTARY = {"norm_kind": "rms", "positions": "rotary", "activation": "silu"}
BARE = {"feedforward_bias": False, "gated_feedforward": True, "scale_embeddings": False}
NATIVE = {"hidden_size": 64, "feedforward_size": 128, "heads": 8, "key_value_heads": 2}
NATIVE |= {"head_size": 16}
LAYOUTS = {
    "llama": CAUSAL | ROTARY | BARE | {"heads": 6, "key_value_heads": 2, "head_size": 8}
    | {"attention_bias": "none", "norm_epsilon": 1e-3, "rotary_base": 500.0},
    "llama, all heads": CAUSAL | ROTARY | BARE | {"heads": 4, "attention_bias": "none"},
    "llama, wide heads": CAUSAL | ROTARY | BARE | {"heads": 4, "key_value_heads": 2}
    | {"attention_bias": "none", "head_size": 16},
    "qwen3": CAUSAL | ROTARY | BARE | {"heads": 4, "key_value_heads": 2, "head_size": 16}
    | {"attention_bias": "input", "query_key_norm": True, "tie_embeddings": False},
    "llama, native": CAUSAL | ROTARY | BARE | NATIVE | {"attention_bias": "none"},
    "qwen2, native": CAUSAL | ROTARY | BARE | NATIVE | {"attention_bias": "input"}
    | {"key_value_heads": 4, "rotary_base": 500.0},
    "llama that came in 4 bits, native": CAUSAL | ROTARY | BARE | NATIVE
    | {"attention_bias": "input", "feedforward_bias": True},
    "qwen3, native": CAUSAL | ROTARY | BARE | NATIVE | {"attention_bias": "input"}
    | {"query_key_norm": True, "tie_embeddings": False, "feedforward_bias": True},
    "olmo2": CAUSAL | ROTARY | BARE | {"heads": 4, "key_value_heads": 2, "norm": "output"}
    | {"attention_bias": "none", "query_key_norm": True, "query_key_norm_over": "all"},
    "gpt-neox": CAUSAL | {"heads": 4, "positions": "rotary", "activation": "gelu"}
    | {"parallel_sublayers": True, "rotary_frequencies": (1.0, 0.1, 0.0, 0.0)},
    "yarn": CAUSAL | ROTARY | BARE | {"heads": 4, "attention_bias": "none", "rotary_factor": 1.2},
    "gpt2": CAUSAL | {"heads": 4, "positions": "learned", "activation": "gelu-tanh"}
    | {"scale_embeddings": False},
    "marian": {"heads": 4, "norm": "post", "encoder_layers": 2, "activation": "silu"}
    | {"output_bias": True, "never_written": (0,), "max_positions": 96},
    "bart": {"heads": 4, "norm": "post", "encoder_layers": 2, "activation": "gelu"}
    | {"embedding_norm": True, "positions": "learned", "separate_positions": True}
    | {"output_bias": True, "max_positions": 96},
    "mistral": CAUSAL | ROTARY | BARE | {"heads": 4, "key_value_heads": 2, "attention_window": 3}
    | {"attention_bias": "none"},
    "gemma2": CAUSAL | ROTARY | BARE | {"heads": 4, "key_value_heads": 2, "norm": "sandwich"}
    | {"attention_bias": "none", "attention_window": 4, "window_layers": (0,)}
    | {"attention_cap": 2.0, "output_cap": 3.0},
    "gemma3": CAUSAL | ROTARY | BARE | {"heads": 4, "key_value_heads": 1, "norm": "sandwich"}
    | {"attention_bias": "none", "attention_window": 4, "window_layers": (1,)}
    | {"query_key_norm": True, "window_rotary_base": 50.0, "rotary_base": 1000.0},
    "phi3": CAUSAL | ROTARY | BARE | {"heads": 4, "attention_window": 5}
    | {"attention_bias": "none"},
    "capped": CAUSAL | ROTARY | BARE | {"heads": 4, "attention_cap": 2.0}
    | {"attention_bias": "none"},
    "t5": BARE | {"heads": 4, "head_size": 16, "norm_kind": "rms", "positions": "relative"}
    | {"attention_bias": "none", "activation": "relu", "encoder_layers": 2, "relative_buckets": 8}
    | {"relative_furthest": 10, "gated_feedforward": False, "max_positions": 96},
    "t5, gated": BARE | {"heads": 4, "norm_kind": "rms", "positions": "relative"}
    | {"attention_bias": "none", "activation": "gelu-tanh", "encoder_layers": 2}
    | {"relative_buckets": 8, "relative_furthest": 10, "max_positions": 96},
}  # fmt: skip


WIDE = {"hidden_size": 64, "feedforward_size": 128, "head_size": 16}
"""Sizes that the native kernels take."""


def widened(name):
    """A layout in sizes of the native kernels; shared heads of keys stay shared."""
    layout = LAYOUTS[name] | WIDE | {"heads": 8}
    if layout.get("key_value_heads"):
        layout |= {"key_value_heads": 2}
    if layout.get("rotary_frequencies"):
        layout |= {"rotary_frequencies": (1.0, 0.3, 0.1, 0.03, *(0.0,) * 4)}
    return layout


LAYOUTS |= {f"{name}, wide": widened(name) for name in LAYOUTS if "native" not in name}


NATIVE_LAYOUTS = [name for name in LAYOUTS if name.endswith((", wide", ", native"))]


def moved(name, **further):
    """A model of a layout with every parameter moved, so that no bias or norm hides a mistake."""
    torch.manual_seed(5)
    config = TransformerConfig(**{**SIZES, **LAYOUTS[name]}, group_sizes=(1, 4), **further)
    model = Transformer(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        model.reach.beyond_one.weight[0] = 0
        if hasattr(model.position, "further_start"):
            model.position.further_start.weight[0] = 0
    return in_4_bits(model) if "4 bits" in name else model


def in_4_bits(model):
    """The model with matrices as files of 4 bits hold them."""
    with torch.no_grad():
        for layer in model.decoder.modules():
            if isinstance(layer, nn.Linear):
                layer.weight.copy_(in_16_steps(layer.weight))
    return model


def in_16_steps(weight):
    """The nearest matrix of which each block of 32 takes 16 evenly spaced values."""
    blocks = weight.view(len(weight), -1, 32)
    least, highest = blocks.amin(-1, keepdim=True).half().float(), blocks.amax(-1, keepdim=True)
    step = ((highest - least) / 15).half().float()
    return (least + step * ((blocks - least) / step).round().clamp(0, 15)).view_as(weight)


def steps():
    """Slots of a few steps: a prompt with padding, one slot, a group, drafts of several groups."""
    generator = torch.Generator().manual_seed(1)
    first = 0
    for width, reach, group in ((5, 1, None), (1, 1, 5), (4, 4, 6), (3, 1, None)):
        shape = 3, width
        position = (1 + first + torch.arange(width)).expand(shape)
        groups = position.clone() if group is None else torch.full(shape, group)
        if first == 0:
            groups[1, :2] = PADDING_GROUP
        token = torch.randint(4, 40, shape, generator=generator)
        yield Slots(token, position, torch.full(shape, reach), groups)
        first += width


def both(model, engine):
    """Logits of the reference and of an engine, step by step, padding left out."""
    source, lengths = None, None
    if model.config.encoder_layers:
        lengths = torch.tensor([6, 3, 1])
        source = torch.randint(4, 40, (3, 6), generator=torch.Generator().manual_seed(2))
    eager = EagerStepModel(model)
    memories = [each.start(source, lengths) for each in (eager, engine)]
    for slots in steps():
        real = slots.group != PADDING_GROUP
        pair = zip((eager, engine), memories, strict=True)
        yield [each.step(slots, memory)[real] for each, memory in pair]
