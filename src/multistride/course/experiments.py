"""The experiments of the course, each a function from a laboratory to what it measured."""

from __future__ import annotations

import math
import os
import platform
import random
import statistics
import subprocess
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from multistride import groups
from multistride.course.laboratory import (
    WIDTH,
    Counting,
    Laboratory,
    Way,
    fast,
    parameters,
)
from multistride.course.refinement import MaskedLayouts, Refiner
from multistride.cpu import cpu_name
from multistride.data.batch import Batch, TokenPair, batches_of
from multistride.decode.ending import EndingRule
from multistride.decode.hypothesis import Hypothesis
from multistride.decode.options import DecodeOptions
from multistride.decode.pick import Picked
from multistride.decode.state import DecodeState
from multistride.engines.eager import EagerStepModel
from multistride.errors import UsageError
from multistride.files import write_json
from multistride.groups import (
    NO_LABEL,
    PADDING_GROUP,
    Slots,
    equal_sizes,
    previous_in_group,
    teacher_forced,
)
from multistride.model.config import TransformerConfig
from multistride.model.transformer import Transformer
from multistride.model.weights import load_model
from multistride.train.layouts import LayoutDrawer, TrainingPass
from multistride.train.loop import Relaid
from multistride.train.loss import labelled_logits
from multistride.train.windows import WindowDrawer
from multistride.version import __version__

MANY = {"sizes": {1: 0.2, 2: 0.25, 4: 0.35, 8: 0.2}, "lookahead": 0.3, "markov_rank": 32}
"""The groups of the checkpoint that most experiments use."""

EXAMPLE = "e x p e r i m e n t a l l y"
"""The word whose writing is drawn step by step."""


def teacher(lab: Laboratory) -> Path:
    """Return the autoregressive teacher, trained on real phonemes."""
    return lab.train("teacher", lab.data("real"), {"groups": {"sizes": {1: 1.0}}})


def many(lab: Laboratory) -> Path:
    """Return the checkpoint for K = 1, 2, 4, 8, from the teacher's weights and its words."""
    first = teacher(lab)
    return lab.train("many", lab.distilled(first), {"groups": MANY}, start=first)


def _masked(drawer: LayoutDrawer | WindowDrawer) -> LayoutDrawer:
    assert isinstance(drawer, LayoutDrawer)
    return MaskedLayouts(drawer, WIDTH)


def generators(lab: Laboratory) -> dict[str, Any]:
    """Train six generators on the same words and budget, through one model and one loop."""
    data = lab.distilled(teacher(lab))

    def sizes(name: str, shares: dict[int, float], **groups: Any) -> Path:
        return lab.train(name, data, {"groups": {"sizes": shares, **groups}})

    refining = lab.train("mask-predict", data, {"groups": {"sizes": {1: 1.0}}}, relaid=_masked)
    drafting = sizes("blockwise", {1: 0.3, 4: 0.7}, lookahead=0.5)
    ways = {
        "AR": (sizes("ar", {1: 1.0}), fast(1)),
        "SAT-2": (sizes("sat-2", {2: 1.0}), fast(2)),
        "SAT-4": (sizes("sat-4", {4: 1.0}), fast(4)),
        "NAT": (sizes("nat", {WIDTH: 1.0}), fast(WIDTH)),
        "mask-predict-4": (refining, Way(writer=lambda engine: Refiner(engine, 4, WIDTH))),
        "mask-predict-10": (refining, Way(writer=lambda engine: Refiner(engine, 10, WIDTH))),
        "blockwise-4": (drafting, fast(4, mode="exact")),
    }
    traces = {name: _trace(*way) for name, way in ways.items() if name in DRAWN}
    return {"rows": lab.measured(ways), "traces": traces, "example": EXAMPLE}


DRAWN = ("AR", "SAT-4", "NAT", "mask-predict-4")


def _trace(path: Path, way: Way) -> list[dict[str, Any]]:
    """Return what each step wrote of the example, and the least time of 25 runs.

    Steps are timed by the clock, so those of a busy machine are shortened until they fit into the
    CPU time of the whole word. `rest` is the joint probability of the tokens after the first, which
    adaptive mode compares with its threshold.
    """
    model, vocabulary = load_model(path)
    engine = Counting(model)
    encoded = vocabulary.encode_source([EXAMPLE])
    runs, times = [], []
    for _ in range(25):
        began = time.thread_time()
        runs.append(way.write(engine, encoded)[0].groups)
        times.append(1000 * (time.thread_time() - began))
    least = [min(run[index].milliseconds for run in runs) for index in range(len(runs[0]))]
    share = min(1.0, min(times) / sum(least))
    return [
        {
            "pieces": vocabulary.pieces(group.tokens),
            "milliseconds": share * milliseconds,
            "rest": math.exp(sum(group.log_probabilities[1:])),
            "group_size": group.group_size,
        }
        for group, milliseconds in zip(runs[0], least, strict=True)
    ]


def strides(lab: Laboratory) -> dict[str, Any]:
    """Measure one checkpoint at K = 1, 2, 4, 6, 8, and each place of its groups."""
    path = many(lab)
    rows = lab.measured({f"K={size}": (path, fast(size)) for size in (1, 2, 4, 6, 8)})
    model, vocabulary = load_model(path)
    sources, references = lab.text["test"]
    pairs = list(
        zip(vocabulary.encode_source(sources), vocabulary.encode_target(references), strict=True)
    )
    places = [place for size in (2, 4, 8) for place in _places(model, pairs, size)]
    return {"rows": rows, "places": places, "parameters": parameters(path)}


@torch.inference_mode()
def _places(
    model: Transformer, pairs: Sequence[TokenPair], group_size: int
) -> list[dict[str, float]]:
    """Return the accuracy at each place of a group, beside that of K=1 at the same positions.

    Positions of a word differ in difficulty (a second letter is often a vowel), so that only the
    difference tells what a place costs. `network` leaves the Markov head out, which reads the token
    before; all read the reference before their group.
    """
    special = model.config.pad_token, model.config.end_token
    rights: dict[str, list[Tensor]] = {"alone": [], "network": [], "markov": []}
    positions = []
    for _, batch in batches_of(pairs, *special, 2048):
        for name, size in (("alone", 1), ("network", group_size), ("markov", group_size)):
            slots, labels = teacher_forced(
                batch.target,
                batch.target_lengths,
                equal_sizes(batch.target_lengths, size),
                model.config.start_token,
            )
            previous = previous_in_group(slots, labels)
            if name == "network":
                previous = torch.full_like(labels, NO_LABEL)
            labelled = labels != NO_LABEL
            logits = labelled_logits(
                model, batch.source, batch.source_lengths, TrainingPass(slots, labels, previous)
            )
            rights[name].append((logits.argmax(-1) == labels[labelled]).double())
        positions.append(slots.position[labelled])
    place = torch.cat(positions) % group_size
    return [
        {
            "group_size": group_size,
            "place": index + 1,
            "tokens": int((place == index).sum()),
            **{
                name: float(torch.cat(right)[place == index].mean())
                for name, right in rights.items()
            },
        }
        for index in range(group_size)
    ]


def _in_order(slots: Slots) -> Slots:
    """Return slots that see no later place of their own group: the strict causal mask."""
    real = slots.group != PADDING_GROUP
    return slots._replace(group=torch.where(real, slots.position, PADDING_GROUP))


def _without_reach(slots: Slots) -> Slots:
    return slots._replace(reach=torch.ones_like(slots.reach))


class Altered(LayoutDrawer):
    """Draws the layouts of another drawer, altered."""

    def __init__(self, drawer: LayoutDrawer, alter: Callable[[Slots], Slots]) -> None:
        super().__init__(drawer.groups, drawer.model, drawer.word_dropout)
        self._alter = alter

    def draw(self, batch: Batch, generator: torch.Generator, progress: float = 1.0) -> TrainingPass:
        """Return the altered pass of a batch."""
        drawn = super().draw(batch, generator, progress)
        return drawn._replace(slots=self._alter(drawn.slots))

    def fixed(self, batch: Batch, group_size: int) -> TrainingPass:
        """Return the altered pass with one group size."""
        drawn = super().fixed(batch, group_size)
        return drawn._replace(slots=self._alter(drawn.slots))


def _altering(alter: Callable[[Slots], Slots]) -> Relaid:
    def relaid(drawer: LayoutDrawer | WindowDrawer) -> LayoutDrawer:
        assert isinstance(drawer, LayoutDrawer)
        return Altered(drawer, alter)

    return relaid


def innovations(lab: Laboratory) -> dict[str, Any]:
    """Leave one part of the architecture out at a time; K=4, everything else alike."""
    first = teacher(lab)
    data = lab.distilled(first)
    plain = {**MANY, "lookahead": 0.0}

    def train(name: str, groups: dict[str, Any], relaid: Relaid | None = None) -> Path:
        return lab.train(name, data, {"groups": groups}, start=first, relaid=relaid)

    ways = {
        "whole": (many(lab), fast(4)),
        "shift": (train("no-shift", {**MANY, "lookahead": 1.0}), fast(4, layout="lookahead")),
        "relaxed-mask": (train("no-relaxed-mask", plain, _altering(_in_order)), fast(4)),
        "reach": (train("no-reach", plain, _altering(_without_reach)), fast(4)),
        "markov": (train("no-markov", {**MANY, "markov_rank": 0}), fast(4)),
        "lookahead": (train("no-lookahead", plain), fast(4)),
    }
    altered = {"relaxed-mask": _in_order, "reach": _without_reach}
    return {"rows": lab.measured(ways, altered)}


def improvements(lab: Laboratory) -> dict[str, Any]:
    """Add one improvement after the other to the plainest model that writes four tokens a step."""
    first = teacher(lab)
    data, only = lab.distilled(first), {"sizes": {4: 1.0}}
    ways = {
        "plain": (lab.train("sat-4-real", lab.data("real"), {"groups": only}), fast(4)),
        "distillation": (lab.train("sat-4", data, {"groups": only}), fast(4)),
        "start": (lab.train("sat-4-started", data, {"groups": only}, start=first), fast(4)),
        "many": (many(lab), fast(4)),
        "adaptive": (many(lab), fast(4, mode="adaptive", threshold=0.3)),
        "exact": (many(lab), fast(4, mode="exact")),
        "AR": (many(lab), fast(1)),
    }
    return {
        "rows": lab.measured(ways),
        "complexity": {
            "lines_of_groups": len(Path(groups.__file__).read_text(encoding="utf-8").splitlines()),
            "options": len(DecodeOptions.model_fields),
            "parameters_one_k": parameters(ways["start"][0]),
            "parameters_many_k": parameters(ways["many"][0]),
        },
        "trust": _trust(*ways["many"], lab),
    }


def _trust(path: Path, way: Way, lab: Laboratory) -> list[dict[str, Any]]:
    """Return how many words are right in each quarter of them, ordered by the confidence of their
    least confident group: what a trace says about an output before anyone has checked it.
    """
    model, vocabulary = load_model(path)
    sources, references = lab.text["test"]
    written = way.write(Counting(model), vocabulary.encode_source(sources))
    texts = vocabulary.decode_all([each.tokens for each in written])
    words = sorted(
        (min(group.confidence for group in each.groups), text == reference)
        for each, text, reference in zip(written, texts, references, strict=True)
    )
    borders = [len(words) * quarter // 4 for quarter in range(5)]
    return [
        {
            "words": end - begin,
            "confidence_from": words[begin][0],
            "confidence_to": words[end - 1][0],
            "word_accuracy": statistics.fmean(right for _, right in words[begin:end]),
        }
        for begin, end in pairwise(borders)
    ]


def policies(lab: Laboratory) -> dict[str, Any]:
    """Measure the ways of choosing K by step, as a whole and by the phase of the word."""
    path = many(lab)
    ways = {
        **{f"fixed-{size}": (path, fast(size)) for size in (1, 2, 4, 8)},
        **{
            f"adaptive-{threshold}": (path, fast(8, mode="adaptive", threshold=threshold))
            for threshold in (0.1, 0.3, 0.5, 0.7)
        },
        "phase": (path, fast(8, policy="phase")),
        "exact-4": (path, fast(4, mode="exact")),
        "exact-8": (path, fast(8, mode="exact")),
    }
    model, vocabulary = load_model(path)
    encoded = vocabulary.encode_source(lab.text["test"][0])
    written = {name: way.write(Counting(model), encoded) for name, (_, way) in ways.items()}
    phases = {name: _phases(written[name]) for name in ("adaptive-0.3", "exact-8")}
    trace = _trace(*ways["adaptive-0.3"])
    rows = [{**row, "accepted": _accepted(written[row["name"]])} for row in lab.measured(ways)]
    return {"rows": rows, "phases": phases, "trace": trace, "example": EXAMPLE}


def _accepted(written: list[Hypothesis]) -> float:
    """Return the share of the proposed tokens that were kept; those after EOS were not."""
    groups = [group for text in written for group in text.groups]
    proposed = sum(group.group_size for group in groups)
    return sum(len(group.tokens) for group in groups) / max(proposed, 1)


def _phases(written: list[Hypothesis]) -> list[dict[str, float]]:
    """Return tokens kept per pass and their confidence in the thirds of the texts."""
    kept: list[list[int]] = [[], [], []]
    offered: list[list[int]] = [[], [], []]
    sure: list[list[float]] = [[], [], []]
    for text in written:
        length, border = sum(len(group.tokens) for group in text.groups), 0
        for group in text.groups:
            third = min(3 * border // max(length, 1), 2)
            kept[third].append(len(group.tokens))
            offered[third].append(group.group_size)
            sure[third].append(group.confidence)
            border += len(group.tokens)
    return [
        {
            "steps": len(kept[third]),
            "tokens_per_pass": statistics.fmean(kept[third] or [0]),
            "accepted": sum(kept[third]) / max(sum(offered[third]), 1),
            "confidence": statistics.fmean(sure[third] or [0]),
        }
        for third in range(3)
    ]


def training(lab: Laboratory) -> dict[str, Any]:
    """Return the validation loss of every K through the stages of training."""
    many(lab)
    curves = []
    for stage in ("teacher", "many"):
        lines = [line for line in lab.metrics(stage) if line["kind"] == "validation"]
        for line in lines:
            losses = {
                name.removeprefix("validation_loss_k"): value
                for name, value in line.items()
                if name.startswith("validation_loss_k")
            }
            curves.append({"stage": stage, "update": line["update"], "losses": losses})
    return {"curves": curves, "updates": lab.budget.updates}


def optimisation(lab: Laboratory) -> dict[str, Any]:
    """Train one small model under every optimisation strategy, with two seeds each."""
    data = lab.data("real")
    variants: dict[str, dict[str, Any]] = {}
    for schedule in ("inverse_sqrt", "cosine", "wsd"):
        for clip in (0.0, 1.0):
            variants[f"{schedule}/clip-{clip:g}"] = {"schedule": schedule, "clip_norm": clip}
    best = {"schedule": "cosine", "clip_norm": 1.0}
    variants["dropout"] = {**best, "model": {"dropout": 0.2}}
    variants["label-smoothing"] = {**best, "label_smoothing": 0.1}
    variants["weight-decay"] = {**best, "weight_decay": 0.05}
    variants["dropout-0.1"] = {**best, "model": {"dropout": 0.1}}  # what R-Drop is compared with
    variants["r-drop"] = {**best, "r_drop": 1.0, "model": {"dropout": 0.1}}
    rows = []
    for name, variant in variants.items():
        for seed in lab.budget.seeds:
            rows.append(_optimised(lab, data, name, variant, seed))
    return {"rows": rows}


def _optimised(
    lab: Laboratory, data: Path, name: str, variant: dict[str, Any], seed: int
) -> dict[str, Any]:
    label = f"optimise-{name.replace('/', '-')}-{seed}"
    updates = lab.budget.short
    settings = {
        "training": {
            "updates": updates,
            "tokens_per_batch": lab.budget.tokens // 2,  # small batches: noisy gradients to clip
            "learning_rate": 8e-3,
            "warmup_updates": max(1, updates // 10),
            "validate_every": updates,
            "log_every": max(1, updates // 30),
            "label_smoothing": 0.0,
            "seed": seed,
            **{key: value for key, value in variant.items() if key != "model"},
        },
        "model": {
            "hidden_size": 64,
            "feedforward_size": 192,
            "dropout": 0.0,
            **variant.get("model", {}),
        },
        "groups": {"sizes": {1: 0.5, 4: 0.5}},
    }
    path = lab.train(label, data, settings)
    lines = lab.metrics(label)
    curve = [line for line in lines if line["kind"] == "training"]
    last = [line for line in lines if line["kind"] == "validation"][-1]
    norms = [line["gradient_norm"] for line in curve]
    [measured] = lab.measured({name: (path, fast(4))}, timed=False)
    return {
        "name": name,
        "seed": seed,
        "updates": [line["update"] for line in curve],
        "rate": [line["learning_rate"] for line in curve],
        "loss": [line["cross_entropy"] for line in curve],
        "norm": norms,
        "largest_norm": max(norms),
        "validation_loss_k1": last["validation_loss_k1"],
        "validation_loss_k4": last["validation_loss_k4"],
        "phoneme_error_rate": measured["phoneme_error_rate"],
    }


@torch.inference_mode()
def steps(lab: Laboratory) -> dict[str, Any]:
    """Time the steps of a model with random weights by K and by length, up to 1,024 tokens."""
    lengths = (16, 32) if lab.profile == "tiny" else (64, 128, 256, 512, 1024)
    torch.manual_seed(1)
    shape = TransformerConfig(
        vocabulary_size=2000,
        hidden_size=128,
        feedforward_size=512,
        heads=4,
        encoder_layers=2,
        decoder_layers=2,
        max_positions=1040,
        max_group_size=8,
        group_sizes=(1, 2, 4, 8),
    )
    engine = EagerStepModel(Transformer(shape).eval())
    rows = []
    sizes = (1, 2, 4, 8)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    times: dict[tuple[int, int], list[float]] = {}
    for _ in range(
        {"tiny": 1, "quick": 3}.get(lab.profile, 5)
    ):  # in turns: noise falls on all alike
        for length, size in product(lengths, sizes):
            times.setdefault((length, size), []).append(_written(engine, length, size))
    torch.set_num_threads(threads)
    for length in lengths:
        for size in sizes:
            milliseconds = min(times[length, size])
            rows.append(
                {
                    "length": length,
                    "group_size": size,
                    "ms_per_text": milliseconds,
                    "ms_per_step": milliseconds * size / length,
                    "ms_per_token": milliseconds / length,
                }
            )
    return {"rows": rows, "shape": shape.model_dump(mode="json")}


def _written(engine: EagerStepModel, length: int, group_size: int) -> float:
    """Return the CPU milliseconds of writing `length` tokens after a source as long."""
    config = engine.config
    source = torch.randint(4, config.vocabulary_size, (1, length))
    state = DecodeState([length], config.start_token, EndingRule.at(config.end_token))
    began = time.thread_time()
    memory = engine.start(source, torch.tensor([length]))
    while not state.done:
        logits = engine.step(state.slots(group_size), memory)[:, -group_size:]
        tokens = 4 + logits[:, :, 4:].argmax(-1)
        picked = Picked(tokens, torch.zeros(tokens.shape))
        state.commit(picked, torch.full((1,), group_size))
        state.leave()
    return 1000 * (time.thread_time() - began)


def trends(lab: Laboratory) -> dict[str, Any]:
    """Train three sizes on three amounts of data; measure what K = 2 and 4 keep of K=1."""
    widths = (16, 32) if lab.profile == "tiny" else (32, 64, 128)
    most = lab.budget.words
    rows = []
    for words in (most // 16, most // 4, most):
        for width in widths:
            name = f"trend-{width}-{words}"
            settings = {
                "model": {"hidden_size": width, "feedforward_size": 3 * width},
                "groups": {"sizes": {1: 0.3, 2: 0.3, 4: 0.4}},
                "training": {
                    "updates": lab.budget.short,
                    "warmup_updates": max(1, lab.budget.short // 8),
                    "validate_every": lab.budget.short,
                },
            }
            path = lab.train(name, lab.data(f"real-{words}", words=words), settings)
            measured = lab.measured(
                {f"K={size}": (path, fast(size)) for size in (1, 2, 4)}, timed=False
            )
            for size, row in zip((1, 2, 4), measured, strict=True):
                rows.append(
                    {
                        "words": words,
                        "width": width,
                        "parameters": parameters(path),
                        "group_size": size,
                        **{key: row[key] for key in KEPT},
                    }
                )
    return {"rows": rows}


KEPT = ("phoneme_error_rate", "word_accuracy")

EXPERIMENTS: dict[str, Callable[[Laboratory], dict[str, Any]]] = {
    "generators": generators,
    "strides": strides,
    "training": training,
    "policies": policies,
    "innovations": innovations,
    "improvements": improvements,
    "optimisation": optimisation,
    "steps": steps,
    "trends": trends,
}


def experiment(name: str, profile: str, output: Path, work: Path | None = None) -> Path:
    """Run an experiment and write OUTPUT/NAME.json; trainings are kept in `work` and not repeated.

    Raises `UsageError` for a name that is none.
    """
    if name not in EXPERIMENTS:
        raise UsageError(
            f"experiment {name} was asked for; there are {', '.join(EXPERIMENTS)}: choose one"
        )
    threads = torch.get_num_threads()
    random.seed(1)
    lab = Laboratory(work or output / "work", profile)
    lab.directory.mkdir(parents=True, exist_ok=True)
    began, commit = time.perf_counter(), _commit()  # the code as it is now, not after hours
    found = EXPERIMENTS[name](lab)
    path = output / f"{name}.json"
    output.mkdir(parents=True, exist_ok=True)
    write_json(
        path,
        {
            "name": name,
            "command": f"multistride course run {name} --profile {profile}",
            "commit": commit,
            "machine": f"{cpu_name()}, {os.cpu_count()} cores, {threads} thread(s), "
            f"Python {platform.python_version()}, torch {torch.__version__}",
            "seed": "1, 2" if name == "optimisation" else "1",
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "multistride": __version__,
            "profile": profile,
            "budget": vars(lab.budget),
            "seconds": round(time.perf_counter() - began, 1),
            **found,
        },
    )
    return path


def _commit() -> str:
    """Return the commit of the code, or that it is not known."""
    try:
        done = subprocess.run(
            ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short", "HEAD"],
            capture_output=True,
            text=True,
            check=False,
        )
    except OSError:
        return "unknown"
    return done.stdout.strip() or "unknown"
