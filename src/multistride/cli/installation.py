"""Examine this machine and installation: what `multistride doctor` prints."""

from __future__ import annotations

import os
import platform
import re
import sys
from importlib import metadata
from typing import Any, get_args

from multistride.engines.names import WeightForm
from multistride.errors import UserError
from multistride.shipped import names
from multistride.version import __version__

Facts = dict[str, Any]

_REQUIREMENT = re.compile(r"(?P<name>[\w.-]+)(?:\[(?P<extra>\w+)\])?(?:>=(?P<least>[\d.]+))?")
_OF_EXTRA = re.compile(r"extra == ['\"](?P<extra>\w+)['\"]")


def examine() -> Facts:
    """Return facts about this machine and installation; nothing that is missing is an error."""
    return {
        "multistride": __version__,
        "python": platform.python_version(),
        "executable": sys.executable,
        "system": platform.platform(),
        **_torch(),
        "extras": extras(),
        "models": names(),
        "caches": _caches(),
    }


def _torch() -> Facts:
    """Return what depends on PyTorch, or why it cannot be imported."""
    try:
        import torch

        from multistride.cpu import cpu_features, cpu_name, usable_cpus
    except Exception as error:  # a broken installation is what a doctor is for
        return {"torch": None, "problem": f"PyTorch cannot be imported: {error}"}
    return {
        "torch": torch.__version__,
        "cpu": cpu_name(),
        "cpu_features": cpu_features(),
        "cpus": usable_cpus(),
        "threads": torch.get_num_threads(),
        "gpus": [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())],
        "engines": engines(),
        "int8_kernels": int8_kernels(),
    }


def int8_kernels() -> str:
    """Return what the int8 engine computes models trained here with, and why."""
    from multistride.engines.int8.native.library import (
        CHOICE,
        MODULES,
        instructions,
        missing,
        wanted,
    )

    try:
        native = wanted()
    except UserError as error:
        return str(error)
    if native and (name := instructions()) is not None:
        return f"native ({MODULES[name][1]})"
    return f"ONNX Runtime: {missing() or f'{CHOICE} says so'}"


def engines() -> dict[str, str | None]:
    """Return the name of every engine, with the reason why it does not run here, or None."""
    import torch

    from multistride.engines.int8.support import check_int8

    reasons: dict[str, str | None] = {"eager": None}
    for form in get_args(WeightForm):
        reasons[form] = None
        try:
            check_int8(form)
        except UserError as error:
            reasons[form] = str(error)
    seen = f"PyTorch {torch.__version__} sees no CUDA device"
    reasons["gpu"] = None if torch.cuda.is_available() else seen
    return reasons


def extras() -> dict[str, Facts]:
    """Return every extra: whether it is complete, its packages by version, and how to install it.

    A package that is not installed, or too old, has no version.
    """
    packages: dict[str, dict[str, str | None]] = {}
    try:
        requirements = metadata.requires("multistride") or ()
    except metadata.PackageNotFoundError:  # sources on PYTHONPATH, never installed
        requirements = ()
    for requirement in requirements:
        extra, package = _OF_EXTRA.search(requirement), _REQUIREMENT.match(requirement)
        if extra is None or package is None or extra["extra"] == "dev":
            continue
        of_extra = packages.setdefault(extra["extra"], {})
        if package["extra"]:  # an extra that includes another one
            of_extra.update(packages.get(package["extra"], {}))
        else:
            of_extra[package["name"]] = _version(package["name"], package["least"])
    return {
        name: {
            "installed": None not in found.values(),
            "packages": found,
            "install": f"pip install 'multistride[{name}]'",
        }
        for name, found in packages.items()
    }


def _version(package: str, least: str | None) -> str | None:
    try:
        version = metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
    return version if least is None or _numbers(version) >= _numbers(least) else None


def _numbers(version: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", version)[:3]]


def _caches() -> Facts:
    """Return where step timings, int8 graphs and downloaded checkpoints are kept."""
    home = os.path.expanduser("~")
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.join(home, ".cache")
    hub = os.environ.get("HF_HOME") or os.path.join(cache, "huggingface")
    own = os.path.join(cache, "multistride")
    return {
        "step timings": own,
        "int8 graphs": os.path.join(own, "int8"),
        "hub checkpoints": hub,
    }


def lines(facts: Facts) -> list[str]:
    """Return the facts as lines of text."""
    shown = [
        f"multistride {facts['multistride']}, Python {facts['python']} ({facts['executable']})",
        f"system       {facts['system']}",
    ]
    if facts["torch"] is None:
        shown.append(f"problem      {facts['problem']}: pip install torch")
    else:
        shown += [
            f"PyTorch      {facts['torch']}, threads: {facts['threads']}, CPUs: {facts['cpus']}",
            f"CPU          {facts['cpu']} ({', '.join(facts['cpu_features']) or 'no fast int8'})",
            f"GPU          {', '.join(facts['gpus']) or 'none'}",
            "engines",
            *(f"  {name:10} {why or 'runs here'}" for name, why in facts["engines"].items()),
            f"int8 kernels {facts['int8_kernels']}",
        ]
    shown.append("extras")
    for name, extra in facts["extras"].items():
        missing = [package for package, version in extra["packages"].items() if not version]
        state = f"missing {', '.join(missing)}: {extra['install']}" if missing else "installed"
        shown.append(f"  {name:10} {state}")
    shown.append(f"models       {', '.join(facts['models'])} (see multistride models)")
    return [*shown, *(f"cache        {name}: {path}" for name, path in facts["caches"].items())]
