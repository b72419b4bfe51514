"""Training adapters goes on, after a stop, exactly as it would have gone on without it."""

import json
import math

import pytest
import torch

from multistride.config import validate
from multistride.data.prepare import prepare
from multistride.data.prepare_text import TextPrepareConfig
from multistride.data.vocab import train_vocabulary
from multistride.errors import DataError, UsageError
from multistride.model.config import TransformerConfig
from multistride.model.transformer import Transformer
from multistride.model.weights import load_model, save_model
from multistride.train.config import RunConfig
from multistride.train.loop import Trainer, train
from multistride.train.monitor import Monitor

SHAPE = {
    "hidden_size": 192,
    "feedforward_size": 512,
    "heads": 4,
    "encoder_layers": 0,
    "decoder_layers": 3,
}
GROUPS = {"sizes": {2: 0.5, 3: 0.5}, "lookahead": 1.0, "anchors": 6, "markov_rank": 8}
TRAINING = {
    "tokens_per_batch": 192,
    "learning_rate": 0.01,
    "warmup_updates": 2,
    "schedule": "constant",
    "validate_every": 8,
    "label_smoothing": 0.0,
    "device": "cpu",
}
UPDATES = 8


@pytest.fixture
def place(tmp_path):
    """Windows of unequal length for a small model: an epoch of them is over before a run is half
    done."""
    words = ("cat", "dog", "fox", "owl", "hen")
    lines = [
        "The " + " sees the ".join((words * 2)[number : number + 2 + number % 4])
        for number in range(20)
    ]
    (tmp_path / "text.txt").write_text(
        "\n".join(f"{line} {number}." for number, line in enumerate(lines))
    )
    vocabulary = train_vocabulary(lines, 290, "bpe")
    torch.manual_seed(3)
    sizes = {"vocabulary_size": len(vocabulary), "max_positions": 32, **SHAPE}
    for dropout in (0.0, 0.1):
        model = Transformer(TransformerConfig(**sizes, positions="rotary", dropout=dropout))
        save_model(tmp_path / f"dropout-{dropout}", model, vocabulary, {}, "# card\n")
    documents = {"documents": (tmp_path / "text.txt",)}
    given = {"output": tmp_path / "data", "vocabulary_from": tmp_path / "dropout-0.0", "window": 24}
    given.update(documents="line", train=documents, validation=documents)
    prepare(validate(TextPrepareConfig, given, "test"))
    return tmp_path


@pytest.mark.parametrize(
    ("dropout", "precision", "trunk_memory", "average"),
    [(0.0, "float32", 8.0, 0.0), (0.1, "bfloat16", 0.02, 0.9), (0.1, "float32", 0.0, 0.0)],
)
def test_a_resumed_run_is_the_run_that_went_on(place, dropout, precision, trunk_memory, average):
    """Kept windows, no room for most of them, and none kept at all.

    Guards: what frozen layers make of a window taken from the batch that met it first, which a
    resumed run has not met; dropout there, drawn from a generator that it does not have; data in
    another order.
    """

    def config(run):
        adapter = {"rank": 4, "alpha": 4, "layers": 1}
        own = {
            "updates": UPDATES,
            "precision": precision,
            "trunk_memory": trunk_memory,
            "moving_average": average,
        }
        tree = {
            "data": place / "data",
            "run": place / run,
            "start_from": place / f"dropout-{dropout}",
        }
        tree.update(adapter=adapter, groups=GROUPS, training={**TRAINING, **own})
        return validate(RunConfig, tree, "test")

    train(config("whole"), None, Monitor("test"))
    half = Trainer(config("half"), None, Monitor("test"), resume=False)
    with half.attention():
        for _ in range(UPDATES // 2):
            half.update()
    assert half.progress.epoch > 0
    half.save()
    train(config("half"), None, Monitor("test"), resume=True)
    whole, resumed = (load_model(place / run / "last")[0].state_dict() for run in ("whole", "half"))
    assert whole.keys() == resumed.keys()
    assert [name for name in whole if not torch.equal(whole[name], resumed[name])] == []


def written(place, name, answers):
    """Prepared records whose answers have so many tokens, behind prompts that fill a window."""
    path = place / f"{name}.jsonl"
    records = [
        {"prompt": [8 + (number + token) % 90 for token in range(24 - length)]}
        | {"written": [9 + number] * length}
        for number, length in enumerate(answers)
    ]
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    given = {"output": place / name, "vocabulary_from": place / "dropout-0.0", "window": 24}
    given.update(train={"written": (path,)}, validation={"written": (path,)})
    prepare(validate(TextPrepareConfig, given, "test"))
    return place / name


def adapted(place, data, **training):
    given = {
        "data": data,
        "run": place / "adapted",
        "start_from": place / "dropout-0.0",
        "adapter": {"rank": 4, "alpha": 4, "layers": 1},
        "groups": GROUPS,
        "training": {**TRAINING, "updates": 6, "tokens_per_batch": 24, **training},
    }
    return validate(RunConfig, given, "test")


def test_windows_of_which_nothing_can_be_drafted_may_fill_a_batch(place):
    # Guards: a division by the labels of a batch that has none, in training and in validation.
    data = written(place, "some", [1, 1, 1, 9, 1, 8])
    train(adapted(place, data), None, Monitor("test"))
    lines = (place / "adapted" / "metrics.jsonl").read_text().splitlines()
    assert all(math.isfinite(value) for line in lines for value in numbers(json.loads(line)))


def numbers(facts):
    return [value for value in facts.values() if isinstance(value, float)]


def test_text_of_which_nothing_can_be_drafted_is_refused(place):
    data = written(place, "none", [1, 1, 1, 1])
    with pytest.raises(DataError, match="no train window has 2 tokens or more to be predicted"):
        Trainer(adapted(place, data), None, Monitor("test"), resume=False)


def test_frozen_layers_take_no_word_dropout(place):
    # Guards: words left out once and for all, since what frozen layers made of them is kept.
    said = "word_dropout 0.3 was given for a model with adapters"
    with pytest.raises(UsageError, match=said):
        Trainer(
            adapted(place, place / "data", word_dropout=0.3), None, Monitor("test"), resume=False
        )
