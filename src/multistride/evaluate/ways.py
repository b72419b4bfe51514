"""The ways of decoding that are measured: what a person listed, made consistent before anything
runs.

Several modes and group sizes are listed at once, and an option may belong to some of them only. So
an option goes to the ways that have a use for it, and one that no way has a use for is an error.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from multistride.decode.options import POLICIES, DecodeOptions
from multistride.errors import UsageError


class Way(NamedTuple):
    """One row of a result: how the output is decoded, and whose output it is."""

    options: DecodeOptions
    teacher: bool = False

    @property
    def whose(self) -> str:
        """Return whose output it is: the model's own, or the teacher's."""
        return "teacher" if self.teacher else "own"

    @property
    def greedy(self) -> bool:
        """Return whether this is greedy K=1 of the model itself."""
        return not self.teacher and self.options.group_size == 1 and self.options.beam == 1

    def __str__(self) -> str:
        whose = "teacher, " if self.teacher else ""
        return f"{whose}K={self.options.group_size}, mode {self.options.mode}"


_USES: dict[str, tuple[Callable[[DecodeOptions], bool], str]] = {
    "threshold": (
        lambda way: way.mode == "adaptive" or way.policy == "phase",
        "mode adaptive or policy phase",
    ),
    "group_beam": (
        lambda way: way.mode == "fast" and way.group_size > 1 and way.beam == 1,
        "mode fast and K above 1",
    ),
    "drafts": (lambda way: way.mode == "exact" and way.group_size > 1, "mode exact and K above 1"),
    "policy": (
        lambda way: (
            way.policy is None
            or (way.mode in POLICIES[way.policy] and (way.group_size > 1 or _alone(way)))
        ),
        "another mode or K above 1",
    ),
}
"""For each option that only some ways have: which, and how that is said."""


def _alone(way: DecodeOptions) -> bool:
    return way.policy in ("fixed", "autoregressive")


def settled(listed: Sequence[DecodeOptions], every_mode: bool = False) -> tuple[DecodeOptions, ...]:
    """Return the ways to measure, from one `DecodeOptions` for every listed combination.

    K=1 writes the same in every mode, so it is measured once, first where several modes are listed;
    with `every_mode`, where only speed matters, in each of them. Raises `UsageError` for an option
    that was given and that no way has a use for.
    """
    modes = list(dict.fromkeys(way.mode for way in listed))
    first = "fast" if "fast" in modes else modes[0]
    ways = [way for way in listed if every_mode or way.group_size != 1 or way.mode == first]
    if len(modes) > 1 and not every_mode:
        ways.sort(key=lambda way: way.group_size != 1)
    for name, (uses, meaning) in _USES.items():
        given = [way for way in ways if name in way.model_fields_set]
        if not given or any(getattr(way, name) is None for way in given):
            continue
        if not any(map(uses, given)):
            value = getattr(given[0], name)
            if name == "policy" and all(way.group_size == 1 for way in ways):
                raise UsageError(
                    f"policy {value} was given, and only K=1 is measured: add a group size above 1"
                )
            sizes = ", ".join(str(way.group_size) for way in ways)
            raise UsageError(
                f"{name} {value} was given, which is for {meaning}, and measured are mode "
                f"{', '.join(modes)} and K={sizes}: add {meaning}, or leave it out"
            )
        ways = [way if uses(way) else _without(way, name) for way in ways]
    return tuple(ways)


def _without(way: DecodeOptions, name: str) -> DecodeOptions:
    return DecodeOptions.made(**way.model_dump(exclude_unset=True, exclude={name}))
