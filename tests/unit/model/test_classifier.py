"""The pooled head: windows to vectors to classes, against loops that a person can read."""

import pytest
import torch

from multistride.config import first_problem
from multistride.errors import DataError
from multistride.model.classifier import aggregated, check_classes
from multistride.model.config import ClassifierConfig, TransformerConfig
from multistride.model.transformer import Transformer


def classifier(**changes):
    torch.manual_seed(2)
    head = ClassifierConfig(classes=("x", "y", "z"), window=16, overlap=4, **changes)
    sizes = {
        "vocabulary_size": 30,
        "hidden_size": 16,
        "feedforward_size": 16,
        "heads": 2,
        "encoder_layers": 1,
    }
    return Transformer(
        TransformerConfig(**sizes, decoder_layers=0, max_positions=32, classifier=head)
    ).eval()


@pytest.mark.parametrize("how", ["mean", "max", "attention"])
def test_documents_are_aggregated_as_a_loop_does(how):
    """Windows of one document that weigh on another, or in another order than they came."""
    torch.manual_seed(1)
    rows, scores = torch.randn(9, 5), torch.randn(9) * 30
    document = torch.tensor([2, 0, 1, 2, 2, 0, 1, 1, 1])
    found = aggregated(rows, document, 3, how, scores)
    for number in range(3):
        own, weights = rows[document == number], scores[document == number].softmax(0)
        expected = {
            "mean": own.mean(0),
            "max": own.amax(0),
            "attention": (weights[:, None] * own).sum(0),
        }[how]
        torch.testing.assert_close(found[number], expected)


@pytest.mark.parametrize("pool", ["mean", "max", "mean-max"])
def test_padding_takes_no_part(pool):
    """A short window that changes with the length of its neighbours."""
    model = classifier(pool=pool)
    tokens, lengths = torch.randint(5, 30, (3, 12)), torch.tensor([12, 5, 1])
    with torch.inference_mode():
        together = model.classifier.pool(model.encode(tokens, lengths)[0], lengths)
        for row, length in enumerate(lengths.tolist()):
            alone = tokens[row : row + 1, :length]
            encoded, _ = model.encode(alone, torch.tensor([length]))
            parts = {"mean": [encoded[0].mean(0)], "max": [encoded[0].amax(0)]}
            parts["mean-max"] = parts["mean"] + parts["max"]
            torch.testing.assert_close(together[row], torch.cat(parts[pool]), atol=1e-5, rtol=1e-5)


def test_a_pooled_classifier_needs_no_other_choice():
    # Guards: a default window that the default number of positions refuses.
    config = TransformerConfig(
        vocabulary_size=64, decoder_layers=0, classifier=ClassifierConfig(kind="pooled")
    )
    assert config.classifier.window < config.max_positions


def test_a_new_head_is_undecided():
    """First updates that only undo what chance has decided."""
    assert not classifier().classifier(torch.randn(3, 32), torch.tensor([0, 1, 1]), 2).any()


def test_attention_is_learned_through_the_softmax():
    """A shift against overflow that takes the gradient with it."""
    head = classifier(windows="attention").classifier
    torch.nn.init.normal_(head.output.weight)
    head(torch.randn(4, 32), torch.tensor([0, 0, 1, 1]), 2).square().sum().backward()
    assert all(
        parameter.grad is not None and bool(parameter.grad.any()) for parameter in head.parameters()
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"overlap": 16}, r"overlap is 16; it must be smaller than window \(16\)"),
        ({"kind": "labels", "windows": "attention"}, "labels have scores: choose mean or max"),
        ({"classes": ("a", "a")}, "classes names a class twice"),
    ],
)
def test_impossible_classifiers_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        ClassifierConfig(**{"window": 16, "overlap": 4, **changes})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"decoder_layers": 1}, "decoder_layers is 1; a pooled classifier has 0"),
        (
            {"classifier": None},
            r"decoder_layers is 0; it must be 1 or more \(leave it out beside "
            r"`classifier: \{kind: pooled\}`\)",
        ),
        ({"max_positions": 16}, "classifier.window is 16; it must be smaller than max_positions"),
        ({"encoder_layers": 0}, "a classifier needs encoder_layers of 1 or more"),
    ],
)
def test_models_that_are_no_classifiers_are_refused(changes, message):
    config = classifier().config.model_dump()
    with pytest.raises(ValueError, match=message) as refused:
        TransformerConfig.model_validate({**config, **changes})
    assert first_problem(refused.value)


def test_a_changed_class_list_is_refused_with_the_labels_that_differ():
    """Probabilities under the wrong names."""
    with pytest.raises(DataError) as refused:
        check_classes(["a", "b", "c"], ["a", "d", "c"], "runs/best", "classes.txt")
    assert str(refused.value) == (
        "the classes of classes.txt are not those of runs/best: 'b' missing and 'd' not known; "
        "use the list it was trained with, or train anew"
    )
    check_classes(["a", "b"], ["b", "a"], "runs/best", "classes.txt")


def test_other_models_are_stored_as_before():
    """A file of a model without a classifier that an earlier version cannot read."""
    plain = TransformerConfig(vocabulary_size=9)
    assert "classifier" not in plain.stored()
    stored = classifier().config.stored()
    assert TransformerConfig.model_validate(stored) == classifier().config
