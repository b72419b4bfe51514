r"""Make a model of the shape of a converted Marian (OPUS-MT), for timing it against CTranslate2.

    python benchmarks/marian_base.py MODEL OUTPUT
    multistride bench --model OUTPUT --source test.en --engine int8 --group-size 1,2,4,8 \
        --batch-size 1,8,32 --against own-k1,ctranslate2-int8 --threads 1 --output bench-marian.json

It has the parts that `multistride convert` makes of `opus-mt-en-de` (6+6 layers, width 512,
feed-forward 2,048, swish, normalisation after each sublayer, a bias for every entry of the
vocabulary), random weights and the tokenizer of MODEL with unused entries. EOS has so low a bias
that it is never written: every program decodes to the same limit.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from grow import grown_vocabulary

from multistride.data.vocabulary_files import load_vocabulary
from multistride.model.config import TransformerConfig
from multistride.model.transformer import Transformer
from multistride.model.weights import save_model

NEVER = -1e4
"""The bias of EOS."""

CARD = """\
# A model of the shape of Marian, for timing

Random weights: see `benchmarks/marian_base.py`.
"""


def marian(vocabulary_size: int) -> Transformer:
    """Return a random model of this shape that never ends a sentence itself."""
    config = TransformerConfig(
        vocabulary_size=vocabulary_size,
        hidden_size=512,
        feedforward_size=2048,
        heads=8,
        encoder_layers=6,
        decoder_layers=6,
        norm="post",
        activation="silu",
        positions="sinusoidal",
        max_positions=512,
        output_bias=True,
        group_sizes=(1, 2, 4, 8),
    )
    torch.manual_seed(1)
    model = Transformer(config).eval()
    assert model.output_bias is not None
    with torch.no_grad():
        model.output_bias.normal_(std=0.1)
        model.output_bias[config.end_token] = NEVER
    return model


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path, help="model directory with the tokenizer")
    parser.add_argument("output", type=Path, help="model directory to write")
    parser.add_argument("--vocabulary-size", type=int, default=32_000)
    given = parser.parse_args()
    vocabulary = grown_vocabulary(load_vocabulary(given.model), given.vocabulary_size)
    provenance = {"by": "benchmarks/marian_base.py"}
    save_model(given.output, marian(given.vocabulary_size), vocabulary, provenance, CARD)


if __name__ == "__main__":
    main()
