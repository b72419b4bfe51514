"""A teacher small enough to read, and a source with every kind of line."""

import pytest
import torch

from multistride.data.vocab import train_vocabulary
from multistride.model.config import TransformerConfig
from multistride.model.transformer import Transformer
from multistride.model.weights import save_model

LETTERS = "a b c d e f g h i j k l m n o p"


@pytest.fixture(scope="session")
def teacher_directory(tmp_path_factory):
    """A model directory: random weights, words for tokens, at most 15 tokens a sentence."""
    vocabulary = train_vocabulary([LETTERS], 40, "words")
    torch.manual_seed(1)
    sizes = {
        "hidden_size": 16,
        "feedforward_size": 16,
        "heads": 2,
        "encoder_layers": 1,
        "decoder_layers": 1,
    }
    model = Transformer(
        TransformerConfig(vocabulary_size=len(vocabulary), max_positions=16, **sizes)
    )
    directory = tmp_path_factory.mktemp("teacher") / "model"
    save_model(directory, model.eval(), vocabulary, {}, "# A card\n")
    return directory


@pytest.fixture
def corpus(tmp_path):
    """Twelve source lines, of which line 3 is blank, line 6 too long and line 9 not UTF-8, and 12
    target lines."""
    letters = LETTERS.split()
    lines = [" ".join(letters[first : first + 1 + first % 4]).encode() for first in range(12)]
    lines[2], lines[5], lines[8] = b"  ", b"a " * 30, b"\xff\xfe a"
    (tmp_path / "source").write_bytes(b"".join(line + b"\n" for line in lines))
    (tmp_path / "target").write_bytes(b"".join(b"%d\n" % line for line in range(12)))
    return tmp_path
