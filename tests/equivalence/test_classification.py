"""A batch of documents = each alone; names scored together = each pair scored; windows drawn =
windows read."""

import pytest
import torch

from multistride.data.batch import Batch
from multistride.data.vocab import train_vocabulary
from multistride.decode.score import score_choices, score_pairs
from multistride.model.config import ClassifierConfig, TransformerConfig
from multistride.model.transformer import Transformer
from multistride.tasks.classification.classifier import Classifier
from multistride.train.loss import ClassLoss
from multistride.train.windows import WindowDrawer

TEXTS = ["ab", "a b ab ba " * 9, "b", "ba ab " * 40, "aab baa " * 3, "b a " * 100]


@pytest.fixture(scope="module")
def vocabulary():
    return train_vocabulary(TEXTS, 270, "bpe")


def made(vocabulary, **choices):
    torch.manual_seed(4)
    pooled = choices.get("kind", "pooled") == "pooled"
    shape = ClassifierConfig(classes=("a", "b a", "ba ab ab"), window=16, overlap=5, **choices)
    sizes = {
        "hidden_size": 16,
        "feedforward_size": 32,
        "heads": 2,
        "encoder_layers": 2,
        "max_positions": 32,
    }
    groups = {"group_sizes": (1, 2), "max_group_size": 2}
    config = TransformerConfig(
        vocabulary_size=len(vocabulary),
        **sizes,
        **groups,
        decoder_layers=0 if pooled else 1,
        classifier=shape,
    )
    model = Transformer(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.5)
        if pooled:
            model.classifier.output.weight.normal_()
    return Classifier(model, vocabulary, shape, batch_size=3)


KINDS = [
    ("pooled", "mean"),
    ("pooled", "max"),
    ("pooled", "attention"),
    ("labels", "mean"),
    ("labels", "max"),
]


@pytest.mark.parametrize(("kind", "windows"), KINDS)
def test_a_batch_is_its_documents(vocabulary, kind, windows):
    """Windows of one document that count for another; padding that changes a result."""
    classifier = made(vocabulary, kind=kind, windows=windows)
    together = classifier.log_probabilities(TEXTS)
    alone = torch.cat([classifier.log_probabilities([text]) for text in TEXTS])
    torch.testing.assert_close(together, alone, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(together.exp().sum(1), torch.ones(len(TEXTS)))
    assert together.std(0).max() > 0.01


@pytest.mark.parametrize("group_size", [1, 2])
def test_names_scored_together_are_pairs_scored_one_by_one(vocabulary, group_size):
    """Memory of one source under another, an EOS that one side forgets, choices in another
    order."""
    classifier = made(vocabulary, kind="labels")
    sources = vocabulary.encode(TEXTS[:3])
    names = vocabulary.encode(list(classifier.classes))
    sources = [source[:30] for source in sources]
    found = score_choices(classifier.model, sources, names, group_size)
    for row, source in enumerate(sources):
        expected = [
            sum(scores)
            for scores in score_pairs(classifier.model, [(source, n) for n in names], group_size)
        ]
        torch.testing.assert_close(found[row], torch.tensor(expected), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("windows", ["mean", "max", "attention"])
def test_training_reads_what_classifying_reads(vocabulary, windows):
    """A loss over other windows, or in another order, than probabilities are made of."""
    classifier = made(vocabulary, windows=windows)
    tokens = vocabulary.encode(TEXTS)
    lengths = torch.tensor([len(row) for row in tokens])
    source = torch.nn.utils.rnn.pad_sequence(
        [torch.tensor(row) for row in tokens], batch_first=True
    )
    labels = torch.tensor([0, 1, 2, 0, 1, 2])
    batch = Batch(source, lengths, labels[:, None], torch.ones(6, dtype=torch.long))
    asked = WindowDrawer(classifier.shape, 2).fixed(batch)
    found = ClassLoss(classifier.model, 0.0)(source, lengths, asked)
    scores = classifier.log_probabilities(TEXTS)
    torch.testing.assert_close(
        found.cross_entropy, -scores.gather(1, labels[:, None]).sum(), atol=1e-4, rtol=1e-4
    )
    assert found.correct == (scores.argmax(1) == labels).sum()


def test_few_windows_are_drawn_of_long_documents(vocabulary):
    """A document whose training costs as much as it is long; the same windows in every epoch."""
    classifier = made(vocabulary)
    lengths = torch.tensor([3, 200, 40])
    batch = Batch(
        torch.zeros(3, 200, dtype=torch.long), lengths, torch.zeros(3, 1, dtype=torch.long), lengths
    )
    drawer = WindowDrawer(classifier.shape, 2)
    drawn = {
        tuple(drawer.draw(batch, torch.Generator().manual_seed(seed)).begin.tolist())
        for seed in range(5)
    }
    assert len(drawn) > 1
    asked = drawer.draw(batch, torch.Generator().manual_seed(0))
    assert asked.document.tolist() == [0, 1, 1, 2, 2]
    assert drawer.fixed(batch).document.tolist() == [0] + [1] * 18 + [2] * 4
    assert asked.labelled() == 3


def test_only_the_first_tokens_are_read_where_that_is_asked_for(vocabulary):
    """A cut baseline that sees the whole document."""
    classifier = made(vocabulary, first_tokens=20)
    long = TEXTS[3]
    [tokens] = vocabulary.encode([long])
    cut = vocabulary.decode(tokens[:20])
    assert vocabulary.encode([cut]) == [tokens[:20]]
    torch.testing.assert_close(
        classifier.log_probabilities([long]), classifier.log_probabilities([cut])
    )
