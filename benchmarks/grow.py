"""Make a trained model larger without changing its outputs, to time a large model on real text.

    python benchmarks/grow.py MODEL OUTPUT [--layers 6] [--vocabulary-size 32000]

Training a Transformer-base takes days on two cores; timing one needs only its cost and sentences
that end where real sentences end. So every feature, head and unit of MODEL is written twice and
read with half the weight (Chen, Goodfellow and Shlens 2016, "Net2Net", arXiv 1511.05641, section
2.3), layers are added that add nothing, and the vocabulary gets entries that never win. The model
that ships (4+4 layers, width 256, vocabulary 8,000) becomes 6+6, width 512, 32,000.

Nothing in it is cheaper than in a trained model of its shape: no matrix is zero or sparse, and no
engine looks for equal rows or columns. Layer normalisation does not notice duplicates: mean and
variance stay as they were.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn

from multistride.data.vocab import Vocabulary
from multistride.device import set_threads
from multistride.errors import UsageError
from multistride.model.config import TransformerConfig
from multistride.model.transformer import Transformer
from multistride.model.weights import load_model, save_model

NEVER = -25.0
"""The logit of an entry that is not used; those of words that are written lie around 10."""

ROW = 0.25
"""The size of what is read to make it: as large as the largest entries of a trained embedding."""


@torch.inference_mode()
def grown(model: Transformer, layers: int = 6, vocabulary_size: int = 32_000) -> Transformer:
    """Return a model twice as wide and `layers` deep on both sides that writes what `model` does.

    Raises `UsageError` for a model that cannot be grown so.
    """
    config = model.config
    if config.norm != "pre" or not config.tie_embeddings or not config.encoder_layers:
        raise UsageError(
            "only encoder-decoder models with layer normalisation before each sublayer and one "
            "embedding can be "
            f"grown; this one has norm {config.norm}, tie_embeddings {config.tie_embeddings}, "
            f"{config.encoder_layers} encoder layers: choose another model"
        )
    if (
        layers < max(config.encoder_layers, config.decoder_layers)
        or vocabulary_size < config.vocabulary_size
    ):
        raise UsageError(
            f"{layers} layers and a vocabulary of {vocabulary_size} were asked for; the model has "
            f"{config.encoder_layers}+{config.decoder_layers} and {config.vocabulary_size}: a "
            "model cannot shrink"
        )
    larger = Transformer(_larger(config, layers, vocabulary_size)).eval()
    _fill_ends(model, larger)
    for side in ("encoder", "decoder"):
        old, new = getattr(model, side), getattr(larger, side)
        for number, layer in enumerate(new):
            known = number < len(old)
            layer.load_state_dict(_twice(old[number if known else -1], adds=known))
    return larger


def _larger(config: TransformerConfig, layers: int, vocabulary_size: int) -> TransformerConfig:
    """Return the shape of twice the width, with heads as wide as before.

    Positions are learned, as sinusoids cannot be written twice.
    """
    sizes = {
        "hidden_size": 2 * config.hidden_size,
        "feedforward_size": 2 * config.feedforward_size,
        "heads": 2 * config.heads,
        "encoder_layers": layers,
        "decoder_layers": layers,
        "vocabulary_size": vocabulary_size,
        "positions": "learned",
    }
    return TransformerConfig.model_validate({**config.model_dump(), **sizes})


def _fill_ends(model: Transformer, larger: Transformer) -> None:
    """Fill embeddings, the last normalisations and the Markov head.

    Embeddings are multiplied by the root of the width, which has grown by the root of two; so they
    shrink by it, and the last normalisation does too, which makes the doubled sum of the logits
    what it was. That normalisation tells its halves apart by a constant: to a row that is equal on
    both halves, as all old ones are, the constant cancels; a row of opposite halves reads nothing
    but the constant. Those are the new entries of the vocabulary.
    """
    width, count = model.config.hidden_size, model.config.vocabulary_size
    signs = torch.where(
        torch.rand(width, generator=torch.Generator().manual_seed(1)) < 0.5, -1.0, 1.0
    )
    apart = signs * (-NEVER / (2 * width * ROW))
    table = larger.target_embedding.weight
    table[:count] = _doubled(model.target_embedding.weight) / 2**0.5
    table[count:] = torch.cat([-ROW * signs, ROW * signs])
    sinusoids, wider = model.position.table, larger.position.table
    assert isinstance(sinusoids, torch.Tensor)
    assert isinstance(wider, torch.Tensor)
    wider.copy_(_doubled(sinusoids))
    larger.reach.beyond_one.weight.copy_(_doubled(model.reach.beyond_one.weight))
    for norm, new in (
        (model.encoder_norm, larger.encoder_norm),
        (model.decoder_norm, larger.decoder_norm),
    ):
        assert isinstance(norm, nn.LayerNorm)
        assert isinstance(new, nn.LayerNorm)
        new.weight.copy_(_doubled(norm.weight))
        new.bias.copy_(_doubled(norm.bias))
    assert isinstance(larger.decoder_norm, nn.LayerNorm)
    for tensor in (larger.decoder_norm.weight, larger.decoder_norm.bias):
        tensor.div_(2**0.5)
    larger.decoder_norm.bias.add_(torch.cat([apart, -apart]))
    if model.markov is not None and larger.markov is not None:
        for old, new_table in (
            (model.markov.previous.weight, larger.markov.previous.weight),
            (model.markov.following, larger.markov.following),
        ):
            new_table.zero_()
            new_table[:count] = old


def _twice(layer: nn.Module, adds: bool) -> dict[str, Tensor]:
    """Return the weights of a layer of twice the width.

    Where the layer must not add anything, what writes into the residual stream reads one half of
    the units with the weights of the other, negated: both are equal, so their sum is zero, with
    weights as large as in any other layer.
    """
    state = {}
    for name, tensor in layer.state_dict().items():
        parts = (
            3
            if name.startswith("attention.input")
            else 2
            if name.startswith("cross.key_value")
            else 1
        )
        rows = torch.cat([torch.cat([part, part]) for part in tensor.chunk(parts)])
        state[name] = _doubled(rows) / 2 if rows.dim() == 2 else rows
        if not adds and name.startswith(("attention.output", "cross.output", "feedforward.narrow")):
            state[name] = _cancelling(state[name])
    return state


def _cancelling(tensor: Tensor) -> Tensor:
    if tensor.dim() == 1:
        return torch.zeros_like(tensor)
    first, second = tensor.chunk(2, dim=1)
    return torch.cat([first, -second], dim=1)


def _doubled(tensor: Tensor) -> Tensor:
    """Return a tensor repeated once along its last dimension."""
    return torch.cat([tensor, tensor], dim=-1)


def grown_vocabulary(vocabulary: Vocabulary, size: int) -> Vocabulary:
    """Return a vocabulary that encodes as before, filled up to `size` with unused entries."""
    tree = json.loads(vocabulary._serialized())
    entries = tree["model"]["vocab"]
    entries.update({f"<unused{number}>": number for number in range(len(vocabulary), size)})
    return Vocabulary(Tokenizer.from_str(json.dumps(tree)))


CARD = """\
# {name}, grown for timing

The weights of {model} in a larger shape that says the same: see `benchmarks/grow.py`. Made to
measure what a model of this size costs on sentences of real lengths; it is no better than the model
it was made from.
"""


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path, help="model directory")
    parser.add_argument("output", type=Path, help="model directory to write")
    parser.add_argument(
        "--layers", type=int, default=6, help="layers of the encoder, and of the decoder"
    )
    parser.add_argument("--vocabulary-size", type=int, default=32_000)
    given = parser.parse_args()
    set_threads(1)
    model, vocabulary = load_model(given.model)
    larger = grown(model, given.layers, given.vocabulary_size)
    card = CARD.format(name=given.model.name, model=given.model)
    provenance = {"grown_from": str(given.model), "by": "benchmarks/grow.py"}
    save_model(
        given.output, larger, grown_vocabulary(vocabulary, given.vocabulary_size), provenance, card
    )


if __name__ == "__main__":
    main()
