"""An ablation: the same training with one technique left out (or put in) at a time, one result file each.

    python examples/ablation.py configs/many-k.yaml --source test.en --reference test.de --output results/ablation \
        --seeds 1,2 --set data=runs/multi30k/distilled-data --set start_from=runs/multi30k/autoregressive/best

Finished trainings and measurements are kept: run it again after an interruption.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from multistride.errors import UserError
from multistride.report.results import read_results

VARIANTS: dict[str, list[str]] = {
    "whole recipe": [],
    "without curriculum": ["groups.curriculum=[]"],
    "without random borders": ["groups.random_borders=0"],
    "without Markov head": ["groups.markov_rank=0"],
    "with glancing": ["groups.glancing=0.3"],
    "with R-Drop": ["training.r_drop=1.0"],
    "with word dropout": ["training.word_dropout=0.1"],
    "with moving average": ["training.moving_average=0.999"],
}


def main() -> None:
    """Train and measure every variant with every seed, then print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path)
    parser.add_argument("--source", type=Path, required=True)
    parser.add_argument("--reference", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True, help="folder for the result files")
    parser.add_argument("--runs", type=Path, default=Path("runs/ablation"), help="folder for the trainings")
    parser.add_argument("--seeds", default="1,2", help="comma-separated")
    parser.add_argument("--group-size", default="1,2,4,6,8")
    parser.add_argument("--only", action="append", choices=VARIANTS, help="this variant (may be repeated)")
    parser.add_argument("--set", dest="settings", action="append", default=[], help="for every training: key=value")
    chosen = parser.parse_args()
    files: dict[str, list[Path]] = {}
    for name in chosen.only or VARIANTS:
        for seed in chosen.seeds.split(","):
            label = f"{name.replace(' ', '-')}-seed-{seed}"
            result = chosen.output / f"{label}.json"
            files.setdefault(name, []).append(result)
            if not result.exists():
                settings = [*chosen.settings, *VARIANTS[name], f"training.seed={seed}", f"run={chosen.runs / label}"]
                measure(chosen, settings, label, result)
    show(files)


def measure(chosen: argparse.Namespace, settings: list[str], label: str, result: Path) -> None:
    """Train one model (or finish it) and evaluate it."""
    options = [part for setting in settings for part in ("--set", setting)]
    multistride("train", chosen.config, "--resume", *options)
    files = ["--source", chosen.source, "--reference", chosen.reference, "--output", result]
    model = chosen.runs / label / "best"
    multistride("evaluate", "--model", model, "--group-size", chosen.group_size, "--name", label, *files)


def multistride(*arguments: object) -> None:
    """Run the command; stop with its exit code if it fails."""
    done = subprocess.run([sys.executable, "-m", "multistride", *map(str, arguments)], check=False)
    if done.returncode:
        sys.exit(done.returncode)


def show(files: dict[str, list[Path]]) -> None:
    """Print one line per variant: BLEU and repetition rate by group size, means over the seeds."""
    for name, places in files.items():
        measured = [read_results(place).results for place in places]
        cells = []
        for same in zip(*measured, strict=True):
            bleu = sum(row.bleu for row in same) / len(same)
            repeated = sum(row.repetition_rate for row in same) / len(same)
            cells.append(f"K={same[0].group_size} {bleu:.2f} ({100 * repeated:.1f} %)")
        print(f"{name:24} {'   '.join(cells)}")


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"ablation: {error}")
