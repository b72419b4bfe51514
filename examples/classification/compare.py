"""Show results of classifiers side by side, or put the folds of one together.

python compare.py RESULT.json ...
python compare.py --together FOLD.json ... --output RESULT.json
"""

import argparse
import json
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from multistride.files import write_json


def rows(path: Path) -> list[dict[str, Any]]:
    """What a result file measured: one row for each way of decoding."""
    found = json.loads(path.read_text(encoding="utf-8"))
    of_file = found.get("results", [found])
    return [
        {**row, "name": found["name"] + (f", K={row['group_size']}" if len(of_file) > 1 else "")}
        for row in of_file
    ]


def table(results: list[dict[str, Any]]) -> str:
    """Accuracy of all and of each quarter by length, macro F1, calibration error and speed, as
    Markdown.
    """
    lines = [
        "| | accuracy | shortest | 2nd | 3rd | longest quarter | macro F1 | off by | documents/s |"
    ]
    lines.append("|---" * 9 + "|")
    for row in results:
        figures = row["metrics"]
        quarters = [f"{part['accuracy']:.3f}" for part in row["details"]["by_length"]]
        cells = [f"{figures['accuracy']:.3f}", *quarters, f"{figures['macro_f1']:.3f}"]
        cells += [f"{figures['calibration_error']:.3f}", f"{row['records_per_second']:.0f}"]
        lines.append(f"| {row['name']} | {' | '.join(cells)} |")
    return "\n".join(lines)


def together(results: list[dict[str, Any]]) -> dict[str, Any]:
    """The mean and the standard deviation of each figure over folds."""
    names = results[0]["metrics"]
    of = {name: [row["metrics"][name] for row in results] for name in names}
    figures = {
        name: {"mean": mean(values), "deviation": stdev(values)} for name, values in of.items()
    }
    return {"task": "classification", "folds": len(results), "metrics": figures, "results": results}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("results", nargs="+", type=Path)
    parser.add_argument("--together", action="store_true")
    parser.add_argument("--output", type=Path)
    given = parser.parse_args()
    found = [row for path in given.results for row in rows(path)]
    print(table(found))
    if given.together:
        summary = together(found)
        print(json.dumps(summary["metrics"]))
        if given.output:
            write_json(given.output, summary)


if __name__ == "__main__":
    main()
