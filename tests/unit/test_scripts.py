"""The scripts of benchmarks/ and examples/ answer `--help`, and say which arguments are missing."""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import runpy
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
SHELL = [
    path for folder in ("benchmarks", "examples") for path in sorted((ROOT / folder).rglob("*.sh"))
]
SCRIPTS = [
    path
    for folder in ("benchmarks", "examples")
    for path in sorted((ROOT / folder).rglob("*.py"))
    if "__main__" in path.read_text(encoding="utf-8")
]


class _Kind(type):
    """Gives a class whatever is asked of it, and lets it be taken apart, indexed and joined."""

    def __getattr__(cls, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return cls

    def __iter__(cls) -> Iterator[Any]:
        return iter(())

    def __getitem__(cls, key: Any) -> Any:
        return cls

    __or__ = __ror__ = __truediv__ = __getitem__


class Anything(Exception, metaclass=_Kind):
    """Stands for whatever a script takes from a package: a class, a decorator, a constant."""

    def __new__(cls, *arguments: Any, **named: Any) -> Any:
        return arguments[0] if arguments and callable(arguments[0]) else Anything


class EmptyPackages(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Replaces every package outside the standard library: importing torch takes seconds."""

    def find_spec(self, name: str, path: Any, target: Any = None) -> Any:
        if name.partition(".")[0] in sys.stdlib_module_names:
            return None
        return importlib.machinery.ModuleSpec(name, self, is_package=True)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        module = ModuleType(spec.name)
        module.__getattr__ = lambda name: Anything  # type: ignore[method-assign]
        return module

    def exec_module(self, module: ModuleType) -> None:
        pass


@contextmanager
def empty_packages() -> Iterator[None]:
    """Leave nothing to import but the standard library and empty packages."""
    loaded = dict(sys.modules)
    for name in loaded:
        if name.partition(".")[0] not in sys.stdlib_module_names:
            del sys.modules[name]
    sys.meta_path.insert(0, finder := EmptyPackages())
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
        sys.modules.clear()
        sys.modules.update(loaded)


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_help(path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    # Guards: a traceback, or work that begins, where a newcomer asks what a script does.
    monkeypatch.setattr(sys, "argv", [str(path), "--help"])
    with pytest.raises(SystemExit) as ended, empty_packages():
        runpy.run_path(str(path), run_name="__main__")
    assert not ended.value.code
    assert capsys.readouterr().out.startswith(f"usage: {path.name}")


@pytest.mark.skipif(shutil.which("sh") is None, reason="no shell")
@pytest.mark.parametrize("path", SHELL, ids=lambda path: str(path.relative_to(ROOT)))
def test_help_of_shell_scripts(path: Path) -> None:
    # Guards: `$1: unbound variable`, or a folder called --help.
    done = subprocess.run(["sh", path, "--help"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith(f"usage: {path.name}")
