"""Models that come with the package, each a model directory with its card, licence notices and
provenance.
"""

from __future__ import annotations

from pathlib import Path

from multistride.errors import DataError, UsageError

_HERE = Path(__file__).parent

DEFAULT = _HERE / "english-german"
"""What runs where no model is named: English to German; `examples/english-german` makes it
again."""


def names() -> list[str]:
    """Return the names of the models that ship, sorted."""
    return sorted(path.parent.name for path in _HERE.glob("*/config.json"))


def directory(name_or_path: Path | str | None) -> Path:
    """Return the model directory that a path or the name of a shipped model stands for.

    A path that exists comes first; None is the default model. What is neither is returned as a
    path, for the reader of the directory to refuse.
    """
    if name_or_path is None:
        return DEFAULT
    path = Path(name_or_path)
    return _HERE / path if not path.exists() and str(path) in names() else path


def existing(name_or_path: Path | str | None) -> Path:
    """Return what `directory` does. Raises `DataError` with the names if nothing is there."""
    if (path := directory(name_or_path)).exists():
        return path
    raise DataError(
        f"{name_or_path} is no model directory, and no model of that name ships (there is "
        f"{', '.join(names())}): check the path, or see `multistride models`"
    )


def refuse_to_change(path: Path) -> None:
    """Raise `UsageError` for the directory of a model that ships: all who use it share it."""
    if is_shipped(path):
        raise UsageError(
            f"--model {path.name} ships with the package, and this would change it: copy {path} "
            "and give the copy"
        )


def is_shipped(path: Path) -> bool:
    """Return True for the directory of a model that ships, as its name gives it."""
    return path.parent == _HERE
