"""Speed that is required: `--require k=4,batch=1,ctranslate2-int8>=5`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from multistride.errors import GateError, UsageError
from multistride.report.result import Result, Row


@dataclass(frozen=True)
class Requirement:
    """The least ratio to a baseline that all rows of a K, batch size and mode must reach."""

    text: str
    baseline: str
    ratio: float
    group_size: int | None = None
    batch_size: int | None = None
    mode: str | None = None

    @classmethod
    def parsed(cls, text: str) -> Requirement:
        """Return the requirement that a text says. Raises `UsageError` if it says none."""
        *conditions, last = text.replace(" ", "").split(",")
        baseline, sign, ratio = last.partition(">=")
        pairs = dict(condition.partition("=")[::2] for condition in conditions)
        try:
            if not sign or not baseline or pairs.keys() - {"k", "batch", "mode"}:
                raise ValueError
            if len(pairs) < len(conditions) or not math.isfinite(float(ratio)):
                raise ValueError
            sizes = {key: int(pairs[key]) if key in pairs else None for key in ("k", "batch")}
            return cls(text, baseline, float(ratio), sizes["k"], sizes["batch"], pairs.get("mode"))
        except ValueError as error:
            raise UsageError(
                f"--require is {text!r}; it takes [k=K,][batch=B,][mode=M,]BASELINE>=RATIO, "
                "for example k=4,batch=1,ctranslate2-int8>=5"
            ) from error

    def concerns(self, row: Row) -> bool:
        """Return whether a row must meet it."""
        return (
            self.group_size in (None, row.group_size)
            and self.batch_size in (None, row.batch_size)
            and self.mode in (None, row.mode)
        )


def check_measured(
    requirements: Sequence[Requirement],
    baselines: Sequence[str],
    group_sizes: Sequence[int],
    batch_sizes: Sequence[int],
    modes: Sequence[str],
) -> None:
    """Raise `UsageError` for a requirement that nothing to be measured can meet or miss."""
    for requirement in requirements:
        for what, asked, measured in (
            ("the baseline", requirement.baseline, baselines),
            ("k", requirement.group_size, group_sizes),
            ("batch", requirement.batch_size, batch_sizes),
            ("mode", requirement.mode, modes),
        ):
            if asked is not None and asked not in measured:
                raise UsageError(
                    f"--require {requirement.text} names {what} {asked}, which is not measured; "
                    "measured are "
                    f"{', '.join(map(str, measured))}: add it, or require something else"
                )


def check_met(requirements: Sequence[Requirement], result: Result) -> None:
    """Raise `GateError` naming the worst row that is slower than required."""
    for requirement in requirements:
        rows = [row for row in result.rows if requirement.concerns(row)]
        worst = min(rows, key=lambda row: row.ratio_to[requirement.baseline])
        ratio = worst.ratio_to[requirement.baseline]
        if ratio < requirement.ratio:
            raise GateError(
                f"required was {requirement.text}, measured {ratio:.2f} (K={worst.group_size}, "
                "batch "
                f"{worst.batch_size}, mode {worst.mode}, engine {worst.engine}, {worst.threads} "
                "thread(s), "
                f"{worst.cpu}): the gate failed"
            )
