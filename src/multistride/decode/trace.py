"""Traces: one JSON object per step, with the choice made and its reason."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from multistride.decode.ending import Ending
from multistride.decode.hypothesis import Group
from multistride.decode.options import DecodeOptions

WHY_OVER: dict[Ending, str] = {
    "end": "the sentence is over",
    "stop": "a stop text",
    "limit": "the length limit",
    "cancelled": "cancelled",
}


def trace_entries(
    groups: Sequence[Group],
    ending: Ending | None,
    options: DecodeOptions,
    pieces: Callable[[tuple[int, ...]], list[str]],
) -> Iterator[dict[str, Any]]:
    """The record of every group of a sentence that ended as `ending` says; `pieces` makes tokens
    readable.

    `accepted` counts the tokens kept of `group_size` proposed; `why_group_size` says why so many
    were proposed, `why` why no more were kept. `confidence` is their probability together, and
    `milliseconds` the time of the step, which all sentences of the batch share.
    """
    for place, group in enumerate(groups, start=1):
        yield {
            "step": group.step,
            "group_size": group.group_size,
            "mode": options.mode,
            "policy": options.policy or ("confidence" if options.mode == "adaptive" else "fixed"),
            "why_group_size": group.reason or "fixed group size",
            "why": _why(group, place == 1, place == len(groups), ending, options),
            "accepted": len(group.tokens),
            "confidence": round(group.confidence, 6),
            "milliseconds": round(group.milliseconds, 3),
            "tokens": group.tokens,
            "pieces": pieces(group.tokens),
            "log_probabilities": [round(value, 6) for value in group.log_probabilities],
        }


def _why(
    group: Group, first: bool, last: bool, ending: Ending | None, options: DecodeOptions
) -> str:
    """Return why these tokens were kept and no more."""
    kept = len(group.tokens)
    if first and options.prefix:
        return "the prefix that was given"
    if last and ending is not None:
        return WHY_OVER[ending]
    if options.mode == "exact":
        return (
            f"{kept - 1} drafts were right" if kept > 1 else "no draft was right, or there was none"
        )
    if options.mode == "adaptive" and kept < group.group_size:
        return f"with the next token the joint probability would fall below {options.sure_from:g}"
    if options.beam > 1:
        return "part of the best hypothesis"
    return "the whole group"
