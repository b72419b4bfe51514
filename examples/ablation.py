"""Run an ablation: the same training with one technique left out or added at a time.

    python examples/ablation.py configs/many-k.yaml --source test.en --reference test.de \
        --output results/ablation --seeds 1,2 --set data=runs/multi30k/distilled-data \
        --set start_from=runs/multi30k/autoregressive/best --real-data runs/multi30k/data

Each training has a result file of its own. A name such as "only K=4" trains one group size alone
with the same budget: what one checkpoint for every K costs. Finished trainings and measurements are
kept: run it again after an interruption.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

from multistride.config import read_config
from multistride.errors import UserError
from multistride.model.directory import load_config
from multistride.report.reading import read_result
from multistride.train.config import RunConfig

VARIANTS: dict[str, list[str]] = {
    "whole recipe": [],
    "without distillation": ["data={real_data}"],
    "without autoregressive start": ["start_from=null", "model={sizes_of_start}"],
    "without curriculum": ["groups.curriculum=[]"],
    "without drafts and partial groups": ["groups.lookahead=0", "groups.partial_groups=0"],
    "without Markov head": ["groups.markov_rank=0"],
    **{
        f"only K={size}": [f"groups.sizes={{{size}: 1.0}}", "groups.curriculum=[]"]
        for size in (2, 4, 6)
    },
    "with random borders": ["groups.random_borders=0.2"],
    "with glancing": ["groups.glancing=0.3"],
    "with R-Drop": ["training.r_drop=1.0"],
    "with word dropout": ["training.word_dropout=0.1"],
    "with moving average": ["training.moving_average=0.999"],
}
"""Settings by variant: `{real_data}` is undistilled data, `{sizes_of_start}` the layers and widths
of the start."""

SIZES = (
    "hidden_size",
    "feedforward_size",
    "heads",
    "encoder_layers",
    "decoder_layers",
    "dropout",
    "norm",
    "positions",
)


def main() -> None:
    """Train and measure every variant with every seed, then print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("config", type=Path)
    parser.add_argument("--source", type=Path, required=True)
    parser.add_argument("--reference", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True, help="folder for the result files")
    parser.add_argument(
        "--runs", type=Path, default=Path("runs/ablation"), help="folder for the trainings"
    )
    parser.add_argument("--real-data", type=Path, help="what `prepare` made of undistilled text")
    parser.add_argument("--seeds", default="1,2", help="comma-separated")
    parser.add_argument("--group-size", default="1,2,4,6,8")
    parser.add_argument(
        "--only", action="append", choices=VARIANTS, help="this variant (may be repeated)"
    )
    parser.add_argument(
        "--set", dest="settings", action="append", default=[], help="for every training: key=value"
    )
    chosen = parser.parse_args()
    start = read_config(chosen.config, RunConfig, chosen.settings).start_from
    if chosen.real_data is None and "without distillation" in (chosen.only or VARIANTS):
        parser.error(
            "the variant without distillation needs --real-data, what `prepare` made of "
            "undistilled text"
        )
    facts = {"{real_data}": str(chosen.real_data)}
    if start is not None:
        known = load_config(start).model_dump(mode="json")
        facts["{sizes_of_start}"] = json.dumps({name: known[name] for name in SIZES})
    files: dict[str, list[Path]] = {}
    for name in chosen.only or VARIANTS:
        for seed in chosen.seeds.split(","):
            label = f"{name.replace(' ', '-')}-seed-{seed}"
            result = chosen.output / f"{label}.json"
            files.setdefault(name, []).append(result)
            if not result.exists():
                own = [replaced(setting, facts) for setting in VARIANTS[name]]
                settings = [
                    *chosen.settings,
                    *own,
                    f"training.seed={seed}",
                    f"run={chosen.runs / label}",
                ]
                measure(chosen, settings, label, result)
    show(files)


def replaced(setting: str, facts: dict[str, str]) -> str:
    """The setting with what is in braces filled in."""
    for brace, fact in facts.items():
        setting = setting.replace(brace, fact)
    return setting


def measure(chosen: argparse.Namespace, settings: list[str], label: str, result: Path) -> None:
    """Train one model (or finish it) and evaluate it."""
    options = [part for setting in settings for part in ("--set", setting)]
    multistride("train", chosen.config, "--resume", *options)
    files = ["--source", chosen.source, "--reference", chosen.reference, "--output", result]
    model = chosen.runs / label / "best"
    sizes = (
        label.partition("=")[2].partition("-")[0] or chosen.group_size
    )  # a single-K model is measured at its K
    multistride(
        "evaluate", "--model", model, "--group-size", sizes, "--threads", 1, "--name", label, *files
    )


def multistride(*arguments: object) -> None:
    """Run the command; stop with its exit code if it fails."""
    done = subprocess.run([sys.executable, "-m", "multistride", *map(str, arguments)], check=False)
    if done.returncode:
        sys.exit(done.returncode)


def show(files: dict[str, list[Path]]) -> None:
    """Print one line per variant: BLEU and repetition rate by group size, means over the seeds."""
    for name, places in files.items():
        measured = [read_result(place).rows for place in places]
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
