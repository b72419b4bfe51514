"""What can be wrong with a benchmark is said before anything is measured."""

from itertools import product

import pytest
import torch

from multistride.config import validate
from multistride.data.vocab import train_vocabulary
from multistride.decode.options import DecodeOptions
from multistride.errors import DataError, UsageError
from multistride.evaluate.bench import run as bench_module
from multistride.evaluate.bench.run import BenchRequest, bench
from multistride.model.config import TransformerConfig
from multistride.model.transformer import Transformer
from multistride.model.weights import load_model, save_model
from multistride.translator import Translator


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A tiny model and texts for it."""
    directory = tmp_path_factory.mktemp("bench")
    vocabulary = train_vocabulary(["a b c d"], 20, "words")
    sizes = {
        "hidden_size": 16,
        "feedforward_size": 16,
        "heads": 2,
        "encoder_layers": 1,
        "decoder_layers": 1,
    }
    config = TransformerConfig(
        vocabulary_size=len(vocabulary), group_sizes=(1, 2), max_positions=8, **sizes
    )
    save_model(directory / "model", Transformer(config), vocabulary, {}, "# Tiny\n")
    (directory / "source").write_text("a b\nc d\nb c\n")
    (directory / "short").write_text("a b\n")
    (directory / "blank").write_text("\n \n")
    (directory / "empty").write_text("")
    return directory


def test_a_result_says_that_groups_are_searched(place, tmp_path):
    # Guards: "greedy, every contender" beside a model that searches by default.
    model, vocabulary = load_model(place / "model")
    changes = {"markov_rank": 2, "group_beam": 3}
    searched = Transformer(model.config.model_copy(update=changes))
    save_model(tmp_path / "model", searched, vocabulary, {}, "# Tiny\n")
    translator = Translator.load(tmp_path / "model", "cpu", "eager")
    assert bench_module._searched(asked(place), translator) == {"group_beam": 3}
    assert bench_module._searched(asked(place, group_sizes=(1,)), translator) == {}


def asked(place, **changes):
    """A request as the command line makes it."""
    files = {"model": place / "model", "source": place / "source", "name": "tiny", "sentences": 3}
    lists = [changes.pop("modes", ("fast",)), changes.pop("group_sizes", (1, 2))]
    rest = {"threshold": changes.pop("threshold")} if "threshold" in changes else {}
    ways = tuple(
        DecodeOptions.made(mode=mode, group_size=size, **rest) for mode, size in product(*lists)
    )
    return validate(BenchRequest, {**files, "ways": ways, "batch_sizes": (1,), **changes}, "bench")


@pytest.fixture(autouse=True)
def no_workers(monkeypatch):
    """Whoever gets as far as opening a contender has not refused anything."""

    def opened(*arguments):
        pytest.fail("a contender was opened")

    monkeypatch.setattr(bench_module, "_entries", opened)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"threads": 0}, "--threads is 0; this process may use"),
        ({"threads": 4096}, "--threads is 4096; this process may use"),
        ({"batch_sizes": (1, 0)}, r"batch_sizes\.1: .* \(given: 0\)"),
        ({"batch_sizes": (64,)}, "a batch of 64 was asked for, and 3 sentences are timed"),
        ({"batch_sizes": ()}, "batch_sizes: "),
        (
            {"group_sizes": (1, 16)},
            "group size 16 was asked for; this checkpoint was trained for 1, 2",
        ),
        ({"group_sizes": (0,)}, "group size 0"),
        ({"against": ("nobody",)}, "'nobody'; allowed are own-k1"),
        ({"engines": ("steam",)}, "engine 'steam' was asked for; allowed are eager"),
        ({"modes": ("sideways",)}, "'fast', 'adaptive' or 'exact' \\(given: 'sideways'\\)"),
        ({"threshold": 0.5}, "add mode adaptive"),
        ({"threshold": 2.0, "modes": ("adaptive",)}, "less than or equal to 1"),
        ({"require": ("own-k1",)}, r"it takes \[k=K,\]"),
        ({"require": ("ctranslate2-int8>=1",)}, "which is not measured; measured are own-k1"),
        ({"rounds": 0}, r"rounds: .* \(given: 0\)"),
        ({"sentences": 0}, r"sentences: .* \(given: 0\)"),
        ({"device": "tpu"}, "device 'tpu' was asked for; allowed are"),
        ({"laps": 3}, "unknown key 'laps'"),
        ({"tokenize": "14b"}, "unknown BLEU tokenizer '14b'"),
    ],
    ids=str,
)
def test_usage(place, changes, said):
    # Guards: minutes of measuring before a mistake is named, or something else measured than was
    # asked for.
    with pytest.raises(UsageError, match=said):
        bench(asked(place, **changes))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"source": "blank"}, "blank holds no line that can be translated"),
        ({"source": "empty"}, "empty is empty"),
        ({"source": "nowhere"}, "nowhere does not exist"),
        ({"reference": "short"}, "source has 3 lines and .*short has 1"),
        ({"model": "nowhere"}, "nowhere is no model directory"),
    ],
    ids=str,
)
def test_files(place, changes, said):
    # Guards: a division by zero sentences, references of other sentences.
    with pytest.raises(DataError, match=said):
        bench(asked(place, **{name: place / file for name, file in changes.items()}))


def test_other_programs_do_not_run_on_gpus(place, monkeypatch):
    # Guards: a GPU compared with a CPU as if that said something about the programs.
    monkeypatch.setattr(bench_module, "pick_device", torch.device)
    with pytest.raises(
        UsageError, match="the baseline ctranslate2-int8 runs on the CPU: leave it out"
    ):
        bench(asked(place, device="cuda", against=("own-k1", "ctranslate2-int8")))
