"""Small model directories, opened with transformers."""

import torch
from transformers import AutoTokenizer

import multistride.hf  # noqa: F401  # makes transformers know our directories
from multistride.data.vocab import train_vocabulary
from multistride.model.config import TransformerConfig
from multistride.model.transformer import Transformer
from multistride.model.weights import save_model

SIZES = {"hidden_size": 32, "feedforward_size": 48, "heads": 4, "decoder_layers": 2}
SOURCES = ["a small dog runs over the grass", "two cats", "one dog", "three cats run", "a cat"]
TARGETS = ["ein kleiner Hund", "zwei Katzen", "ein Hund", "drei Katzen laufen", "eine Katze"]


def directory_of(place, encoder_layers, group_sizes=(1, 2, 4), **choices):
    """A directory with a random model, and the tokenizer of SOURCES and TARGETS."""
    vocabulary = train_vocabulary([*SOURCES, *TARGETS], 320, "bpe")
    torch.manual_seed(4)
    config = TransformerConfig(
        vocabulary_size=len(vocabulary),
        encoder_layers=encoder_layers,
        max_positions=48,
        group_sizes=group_sizes,
        **{**SIZES, **choices},
    )
    save_model(place, Transformer(config), vocabulary, {}, "# card\n")
    return place


def inputs_of(directory, texts=SOURCES, side="right"):
    tokenizer = AutoTokenizer.from_pretrained(directory, padding_side=side)
    return tokenizer(texts, return_tensors="pt", padding=True)
