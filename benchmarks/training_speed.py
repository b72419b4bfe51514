"""Time a training update on this machine, with and without two ways of doing less work.

    python benchmarks/training_speed.py CONFIG.yaml [--updates 12] [--rounds 3] [--output FILE]

CONFIG is a configuration of `multistride train`; its run directory is not touched. Three ways take
turns on the same batches: every batch padded to its longest row and the loss in one piece; rows
decoded in parts of like length; and the loss in chunks as well, as `train` does it.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path

import torch

import multistride.model.transformer as model_file
import multistride.train.loss as loss_file
from multistride.config import read_config
from multistride.cpu import cpu_name
from multistride.files import write_json
from multistride.train.chunked import takes_chunks
from multistride.train.config import RunConfig
from multistride.train.loop import Trainer
from multistride.train.monitor import Monitor

WAYS = {
    "one part, loss in one piece": (10**9, lambda model: False),
    "parts of like length, loss in one piece": (model_file.PART_OVERHEAD, lambda model: False),
    "parts of like length, loss in chunks": (model_file.PART_OVERHEAD, takes_chunks),
}
"""What a part costs, in slots, and which models have their loss in chunks."""


def seconds_of(trainer: Trainer, way: str, updates: int) -> float:
    """Take `updates` updates from the same place in the data; returns their seconds."""
    model_file.PART_OVERHEAD, takes = WAYS[way]
    setattr(loss_file, "takes_chunks", takes)  # noqa: B010  (a name that the module imports)
    trainer.progress.update = trainer.progress.batch = 0
    before = trainer.progress.seconds
    for _ in range(updates):
        trainer.update()
    return trainer.progress.seconds - before


def main() -> None:
    """Measure, print, and write the result file."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("config", type=Path)
    parser.add_argument("--updates", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", type=Path)
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    with tempfile.TemporaryDirectory() as directory:
        config = read_config(chosen.config, RunConfig, [f"run={directory}/run"])
        trainer = Trainer(config, None, Monitor("speed"), False)
        seconds: dict[str, list[float]] = {way: [] for way in WAYS}
        with trainer.attention():
            seconds_of(trainer, next(iter(WAYS)), 2)  # warm
            for _ in range(chosen.rounds):
                for way, times in seconds.items():
                    times.append(seconds_of(trainer, way, chosen.updates))
    slowest = seconds[next(iter(WAYS))]
    rows = [
        {
            "name": way,
            "metrics": {
                "seconds_per_update": round(statistics.median(times) / chosen.updates, 4),
                "times_as_fast": round(
                    statistics.median(
                        slow / fast for slow, fast in zip(slowest, times, strict=True)
                    ),
                    3,
                ),
            },
        }
        for way, times in seconds.items()
    ]
    for row in rows:
        print(row["name"], row["metrics"])
    if chosen.output:
        settings = {
            "parameters": sum(each.numel() for each in trainer.model.parameters()),
            "group_sizes": {str(size): share for size, share in config.groups.sizes.items()},
            "tokens_per_batch": config.training.tokens_per_batch,
            "precision": trainer.accelerator.mixed_precision,
            "updates": chosen.updates,
            "rounds": chosen.rounds,
            "threads": chosen.threads,
            "cpu": cpu_name(),
            "torch": torch.__version__,
        }
        write_json(
            chosen.output,
            {"name": "Training speed", "kind": "other", "settings": settings, "results": rows},
        )


if __name__ == "__main__":
    main()
