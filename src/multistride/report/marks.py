"""Marked tables in pages, made anew from the result files that the marks name."""

from __future__ import annotations

import re
from pathlib import Path

from multistride.errors import DataError
from multistride.report.benchmark import baselines_table, heading, ratios_table
from multistride.report.reading import read_result
from multistride.report.result import Result
from multistride.report.tables import markdown

_MARK = re.compile(
    r"(<!-- (bench|ratios|baselines|table|parts|startup) (\S+)(?: (\S+))? -->\n).*?(<!-- end -->)",
    re.DOTALL,
)

_KINDS = {"bench": "benchmark", "ratios": "benchmark", "baselines": "benchmark"} | {
    "parts": "profile",
    "startup": "startup",
}
"""The kind of result that a mark is about; `table` takes any."""


def filled(page: str, root: Path) -> str:
    """Return a page with every marked table made anew; paths are relative to `root`.

    Marks are `<!-- table FILE -->` for any result, `bench`, `parts` and `startup` for those of
    benchmarks, profiles and start-up times, `<!-- baselines FILE -->` and `<!-- ratios FILE
    BASELINE -->` for one table of a benchmark; each ends at `<!-- end -->`. Where a file is missing
    the page says so. Raises `DataError` for a file that is no such result.
    """

    def table(mark: re.Match[str]) -> str:
        begin, kind, path, baseline, end = mark.groups()
        if not (root / path).exists():
            return f"{begin}Not measured yet: `benchmarks/run.sh` writes `{path}`.\n{end}"
        result = read_result(root / path)
        if _KINDS.get(kind, result.kind) != result.kind:
            raise DataError(f"{path} is a result of kind {result.kind}; <!-- {kind} --> takes none")
        return begin + _shown(kind, result, path, baseline) + end

    return _MARK.sub(table, page)


def _shown(kind: str, result: Result, path: str, baseline: str) -> str:
    if kind == "baselines":
        return f"{heading(result)}\n\n{baselines_table(result).markdown()}"
    if kind == "ratios":
        if baseline not in result.baseline_names:
            known = ", ".join(result.baseline_names)
            raise DataError(f"{path} has no baseline {baseline}; it has {known}: mark another")
        return f"{heading(result)}\n\n{ratios_table(result, baseline).markdown()}"
    return markdown(result)
