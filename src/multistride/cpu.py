"""The processor of this machine: name, instructions, and CPUs that a process may use."""

from __future__ import annotations

import os
import platform
from functools import cache
from pathlib import Path

from multistride.errors import UsageError

CPU_FEATURES = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_int8", "amx_bf16")
"""CPU instructions that decide which engines run, and how fast."""


def cpu_name() -> str:
    """Return the processor as the operating system names it."""
    for line in _cpu_info().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def cpu_features() -> list[str]:
    """Return those of `CPU_FEATURES` that this processor has; known on Linux only."""
    flags = set(_cpu_info().partition("\n\n")[0].split())  # of the first: they are alike
    return [feature for feature in CPU_FEATURES if feature in flags]


def multiplies_int8() -> bool:
    """Return whether the CPU is known to add up products of 8-bit integers without overflow.

    x86 before VNNI adds two products in 16 bits, which saturate: code that multiplies so must take
    7 bits of one of them, or widen both. ARM has no such trap.
    """
    if platform.machine().lower() not in ("x86_64", "amd64", "i386", "i686"):
        return True
    return bool({"avx512_vnni", "avx_vnni"} & set(cpu_features()))


def usable_cpus() -> int:
    """Return the number of CPUs this process may use."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS and Windows
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def default_threads() -> int:
    """Return the number of threads that PyTorch would take: one for each usable core."""
    given = os.environ.get("OMP_NUM_THREADS", "")
    if given.isdecimal() and int(given):
        return int(given)
    return _usable_cores() or usable_cpus()


def _usable_cores() -> int:
    """Return the number of cores behind the usable CPUs, which may be halves of one; 0: unknown."""
    usable = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set[int]()
    cores = set()
    for processor in _cpu_info().split("\n\n"):
        lines = (line.partition(":") for line in processor.splitlines())
        facts = {name.strip(): value.strip() for name, _, value in lines}
        if {"physical id", "core id"} <= facts.keys() and int(facts["processor"]) in usable:
            cores.add((facts["physical id"], facts["core id"]))
    return len(cores)


def check_threads(count: int) -> None:
    """Raise `UsageError` for a number of threads that this process cannot have."""
    most = usable_cpus()
    if not 1 <= count <= most:
        raise UsageError(
            f"--threads is {count}; this process may use {most} CPUs: give 1 to {most}"
        )


@cache
def _cpu_info() -> str:
    try:
        return Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return ""
