"""The present and the largest resident size (RSS) of this process, as Linux counts it.

`/proc/self/clear_refs` forgets the largest size so far (proc(5)), so that each measurement has its
own.
"""

from __future__ import annotations

from pathlib import Path

METHOD = "VmHWM of one process a contender, reset through /proc/self/clear_refs before every turn"

_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")


def forget_peak() -> None:
    """Make the present size the largest so far, where the system can."""
    try:
        _CLEAR.write_text("5")
    except OSError:  # the peak is then that of the whole process, which is not smaller
        return


def peak_mb() -> float | None:
    """Return the largest size since `forget_peak`, in 2**20 bytes; None where it is not known."""
    return _field("VmHWM")


def present_mb() -> float | None:
    """Return the size now, in 2**20 bytes; None where it is not known."""
    return _field("VmRSS")


def _field(name: str) -> float | None:
    try:
        lines = _STATUS.read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    for line in lines:
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) / 1024
    return None
