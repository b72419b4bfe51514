"""Tiny models whose outputs vary, and an engine without its own loop, for tests of options."""

import torch

from multistride.data.vocab import train_vocabulary
from multistride.model.config import TransformerConfig
from multistride.model.transformer import Transformer

SENTENCES = ["the cat sat on the mat", "a dog", "two cats ran to the sea", "the sea sat", "mat"]


def tiny_model(encoder_layers=1, texts=SENTENCES, **shape):
    """Return a random model that drafts, and a vocabulary of `texts`."""
    torch.manual_seed(2)
    vocabulary = train_vocabulary(texts, 280, "bpe")
    sizes = {
        "vocabulary_size": len(vocabulary),
        "hidden_size": 32,
        "feedforward_size": 32,
        "heads": 2,
        "encoder_layers": encoder_layers,
        "decoder_layers": 1,
        "max_positions": 48,
        "max_group_size": 4,
        "group_sizes": (1, 2, 4),
        "tie_embeddings": False,
        "lookahead": True,
    }
    model = Transformer(TransformerConfig(**{**sizes, **shape})).eval()
    with torch.no_grad():
        model.output.weight.mul_(4)
        if model.markov is not None:
            for weight in model.markov.parameters():
                weight.normal_(0, 0.5)
    return model, vocabulary


def small_model(norm="pre", rank=0, **sizes):
    """Return the model of the fixture, with other sizes and perhaps a Markov head."""
    torch.manual_seed(3)
    usual = {"hidden_size": 32, "feedforward_size": 64, "heads": 4}
    config = TransformerConfig(
        **{"vocabulary_size": 40, **usual, **sizes},
        markov_rank=rank,
        encoder_layers=2,
        decoder_layers=2,
        norm=norm,
        positions="learned" if norm == "post" else "sinusoidal",
        max_positions=64,
        max_group_size=8,
        group_sizes=(1, 2, 3, 4, 8),
    )
    transformer = Transformer(config).eval()
    with torch.no_grad():
        for parameter in transformer.parameters():
            parameter.mul_(1.5)
        transformer.reach.beyond_one.weight[1:].normal_(std=0.5)
    return transformer


class Plain:
    """An engine without its shortcut: all that is left is the plain loop."""

    def __init__(self, engine):
        self._engine = engine

    @property
    def config(self):
        return self._engine.config

    @property
    def markov(self):
        return self._engine.markov

    def start(self, source, lengths):
        return self._engine.start(source, lengths)

    def step(self, slots, memory):
        return self._engine.step(slots, memory)

    def __getattr__(self, name):
        if name == "shortcut":
            raise AttributeError(name)
        return getattr(self._engine, name)
