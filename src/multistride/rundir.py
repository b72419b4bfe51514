"""The directory of a training run: `run.yaml`, `metrics.jsonl`, `checkpoints/step_N/`, `best`,
`last`.

Each checkpoint is a whole model directory, with `training.pt` beside the model for resuming. `best`
and `last` are links to checkpoints, so `--model RUN/best` is all a user needs to know.

The run can be killed at any moment. `record.json` says which checkpoints are `last` and `best` and
how much of `metrics.jsonl` belongs to them; it is replaced as a whole, and everything else follows
from it: when a run is opened, links are put right, later checkpoints and lines are removed, and so
is what a killed process left. One process at a time holds the directory.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from multistride.errors import DataError, UsageError, UserError, shown
from multistride.files import replacing_file, sweep, write_errors, write_json
from multistride.locks import exclusive
from multistride.untrusted import parse_json, read_json, read_yaml

logger = logging.getLogger(__name__)

RECORD = "record.json"
NOT_DECIDING = (
    "data",  # the hash of the data decides
    "run",
    "start_from",  # as above
    "training.keep_checkpoints",
    "training.trunk_memory",
)
"""Settings that change nothing about the weights, the metrics or the choice of the best."""

_OTHERS = {"prepare.json": "prepared data", "model.safetensors": "a model"}
"""What says that a directory is something else: a run is in a directory of its own."""


class Committed(BaseModel):
    """The content of `record.json`. `metrics` counts bytes of `metrics.jsonl`."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    last: int = Field(ge=0)
    best: int | None = Field(ge=0)
    metrics: int = Field(ge=0)
    decides: dict[str, str | None] = {}


class Asked(NamedTuple):
    """A run as it is asked for: its settings, the hashes of what it reads, and what may differ.

    `complete` adds fields to stored settings that did not exist when they were stored;
    `may_differ` names the settings that may be others than the stored ones after `done` updates.
    """

    config: dict[str, Any]
    decides: Mapping[str, str | None] = MappingProxyType({})
    may_differ: Callable[[dict[str, Any], int], Collection[str]] = lambda stored, done: ()
    complete: Callable[[Any], Any] = lambda stored: stored


class RunDirectory:
    """Paths and records of one run. Nothing here knows what a model is."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self.checkpoints = self.path / "checkpoints"
        self.metrics = self.path / "metrics.jsonl"
        self._decides: Mapping[str, str | None] = {}

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold the directory, creating it; remove it again if the block leaves it empty.

        Raises `UsageError` if another process holds it.
        """
        created = not self.path.exists()
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            reason = error.strerror or str(error)
            raise UserError(
                f"could not write {self.path}: {reason}; choose another place"
            ) from error
        try:
            with exclusive(self.path, "wait for it, or choose another place"):
                yield
        finally:
            if created:
                with suppress(OSError):
                    self.path.rmdir()

    def open(self, asked: Asked, resume: bool) -> None:
        """Check that a run may begin or continue here, and put right what a kill left.

        Nothing is created: `begin` does that, when nothing can be refused any more. A run without a
        checkpoint has nothing to lose and is begun anew. Raises `UsageError` if a run is there and
        `resume` is false, or was made from other settings, data or weights; `DataError` if its
        records are damaged.
        """
        self._decides = asked.decides
        sweep(self.path)
        sweep(self.checkpoints)
        if not self._is_begun():
            # A kill before the first commit leaves one checkpoint at most.
            if resume and len(self.by_age()) > 1:
                raise DataError(
                    f"{self.path} has checkpoints, and neither {RECORD} nor `last`, which say "
                    "where the run was: restore one of them, or begin anew in another place"
                )
            if resume or not self.by_age():
                self._refuse_foreign(asked)
                return
        if not resume:
            raise UsageError(
                f"{self.path} holds a run already: add --resume to continue it, or choose another "
                "place"
            )
        settings = self.path / "run.yaml"
        advice = f"restore it, or begin anew in another place than {self.path}"
        self._same(asked.complete(read_yaml(settings, advice)), asked)
        self._restore()

    def begin(self, config: dict[str, Any]) -> None:
        """Write `run.yaml`; forget the metrics of a run that never had a checkpoint."""
        if not self._is_begun():
            with suppress(NotADirectoryError):  # said below
                self.metrics.unlink(missing_ok=True)
        with replacing_file(self.path / "run.yaml") as temporary:
            temporary.write_text(_as_yaml(config), encoding="utf-8")

    def checkpoint(self, update: int) -> Path:
        """Return the path of the checkpoint after `update` updates."""
        return self.checkpoints / f"step_{update}"

    def commit(self, update: int, best: int | None = None) -> None:
        """Make the checkpoint of `update` the last one, with all metrics until now.

        `best` is the update of the best checkpoint; None: the one that it was, if it is still
        there. The replacement of `record.json` is the moment at which both become true.
        """
        before = self._committed()
        if best is None:
            best = before.best if before else self._linked("best")
        if best is not None and not self.checkpoint(best).is_dir():
            best = None
        decides = {**(before.decides if before else {}), **self._decides}
        size = 0
        if self.metrics.is_file():
            with open(self.metrics, "rb") as file:
                os.fsync(file.fileno())
                size = file.seek(0, os.SEEK_END)
        record = Committed(last=update, best=best, metrics=size, decides=decides)
        write_json(self.path / RECORD, record.model_dump())
        self._link(record)

    def last(self) -> Path | None:
        """Return the checkpoint to resume from; the newest left if that was deleted; or None."""
        committed = self._committed()
        update = committed.last if committed else self._linked("last")
        if update is not None and self.checkpoint(update).is_dir():
            return self.checkpoint(update).resolve()
        left = self.by_age() if update is not None else []
        return left[-1].resolve() if left else None

    def prune(self, keep: int) -> None:
        """Delete all but the newest `keep` checkpoints; `best` and `last` always stay."""
        linked = {self._linked("best"), self._linked("last")}
        for old in self.by_age()[:-keep]:
            if _number(old) not in linked:
                self._remove(old)

    def record(self, entry: dict[str, Any]) -> None:
        """Append one line to `metrics.jsonl`."""
        with (
            write_errors(self.metrics, kept="the last checkpoint is whole"),
            open(self.metrics, "a", encoding="utf-8") as file,
        ):
            file.write(json.dumps(entry, ensure_ascii=False) + "\n")

    def rewind(self, update: int) -> None:
        """Drop the metrics of updates after `update`: a resumed run writes them again."""
        if not self.metrics.is_file():
            return
        committed = self._committed()
        if committed is not None and committed.last == update:
            with open(self.metrics, "r+b") as file:
                if committed.metrics <= file.seek(0, os.SEEK_END):
                    file.seek(max(0, committed.metrics - 1))
                    if not committed.metrics or file.read(1) == b"\n":
                        file.truncate(committed.metrics)
                        return
            # The file is another one than was recorded: restored, edited, with other line ends.
        kept = []
        for line in self.metrics.read_bytes().splitlines(keepends=True):
            try:
                entry = parse_json(line)
                if entry["update"] <= update:
                    kept.append(line)
            except (ValueError, KeyError, TypeError):
                logger.warning(f"{self.metrics}: a damaged line is left out")
        with replacing_file(self.metrics) as temporary:
            temporary.write_bytes(b"".join(kept))

    def by_age(self) -> list[Path]:
        """Return the checkpoints, oldest first."""
        return sorted(
            (path for path in self.checkpoints.glob("step_*") if _number(path) is not None),
            key=lambda path: _number(path) or 0,
        )

    def _is_begun(self) -> bool:
        """Return whether a checkpoint was ever committed, by this version or an older one."""
        return (self.path / RECORD).exists() or self._linked("last") is not None

    def _refuse_foreign(self, asked: Asked) -> None:
        """Raise `UsageError` if beginning here would replace what no run has written.

        A run that was stopped before its first checkpoint leaves its own `run.yaml`, with every
        setting, and perhaps metrics.
        """
        settings = self.path / "run.yaml"
        begun = False
        if settings.is_file():
            with suppress(UserError, UnicodeDecodeError):
                text, stored = settings.read_text(encoding="utf-8"), read_yaml(settings, "")
                begun = asked.complete(stored) == stored and text == _as_yaml(stored)
        for name, what in _OTHERS.items():
            if (self.path / name).exists():
                raise UsageError(
                    f"{self.path} holds {what} ({name}): name another directory for the run"
                )
        names = ["best", "last", RECORD]
        if not begun:
            names += ["run.yaml", self.metrics.name]
        for name in names:
            if os.path.lexists(self.path / name):
                raise UsageError(
                    f"{self.path} holds {name}, which no training wrote there and this one would "
                    "replace: name another directory for the run"
                )

    def _restore(self) -> None:
        """Make links, checkpoints and metrics agree with the record."""
        committed = self._committed()
        if committed is None:
            return
        for path in self.by_age():
            if (_number(path) or 0) > committed.last and self.checkpoint(committed.last).is_dir():
                self._remove(path)  # a kill came between the checkpoint and the record
        self._link(committed)

    def _link(self, record: Committed) -> None:
        for name, update in (("best", record.best), ("last", record.last)):
            link, temporary = self.path / name, self.path / f".{name}.new"
            if name == "best" and link.is_symlink() and not link.exists():
                link.unlink()  # its checkpoint was deleted
            if update is None or self._linked(name) == update:
                continue
            temporary.unlink(missing_ok=True)
            temporary.symlink_to(Path("checkpoints") / f"step_{update}")
            if link.exists() and not link.is_symlink():
                self._move_copy(link)
            os.replace(temporary, link)
        for name in ("best", "last"):
            (self.path / f".{name}.new").unlink(missing_ok=True)

    def _move_copy(self, copy: Path) -> None:
        """Move away what stands in the place of a link, as a copied run may have it."""
        for number in count(1):
            kept = copy.with_name(f"{copy.name}.copy{number}")
            if not kept.exists():
                os.replace(copy, kept)
                logger.warning(f"{copy} was no link: it is {kept.name} now")
                return

    def _linked(self, name: str) -> int | None:
        try:
            return _number(Path(os.readlink(self.path / name)))
        except OSError:
            return None

    def _remove(self, checkpoint: Path) -> None:
        """Delete a checkpoint that is never seen half deleted."""
        hidden = checkpoint.with_name(f".{checkpoint.name}.new.removed_")  # as `files.sweep` knows
        shutil.rmtree(hidden, ignore_errors=True)
        with suppress(OSError):
            os.replace(checkpoint, hidden)
        shutil.rmtree(hidden, ignore_errors=True)

    def _committed(self) -> Committed | None:
        path = self.path / RECORD
        if not path.exists():
            return None
        advice = f"delete it to resume from what {self.path / 'last'} names"
        try:
            return Committed.model_validate(read_json(path, advice))
        except ValidationError as error:
            raise DataError(f"{path} is damaged: {advice}") from error

    def _same(self, before: Any, asked: Asked) -> None:
        if not isinstance(before, dict):
            raise DataError(
                f"{self.path / 'run.yaml'} holds no settings: restore it, or begin anew"
            )
        last = self.last()
        done = (_number(last) or 0) if last is not None else 0
        free = {*NOT_DECIDING, *asked.may_differ(before, done)}
        lines = [
            f"{key} was {shown(old)}, is {shown(new)}"
            for key, old, new in _differences(before, asked.config)
            if key not in free
        ]
        self._refuse(lines)

    def check_inputs(self) -> None:
        """Raise `UsageError` if the run was begun on other data, another vocabulary or weights."""
        committed = self._committed()
        changes = (
            (name, digest or "none", self._decides.get(name, digest) or "none")
            for name, digest in (committed.decides if committed else {}).items()
        )
        self._refuse(
            [f"{name} was {old[:12]}, is {new[:12]}" for name, old, new in changes if old != new]
        )

    def _refuse(self, lines: list[str]) -> None:
        if lines:
            raise UsageError(
                f"{self.path} was started with another configuration ({'; '.join(sorted(lines))}): "
                "restore it to resume, or choose another place"
            )


def _as_yaml(config: Any) -> str:
    return yaml.safe_dump(config, sort_keys=False, allow_unicode=True)


def _number(checkpoint: Path) -> int | None:
    digits = checkpoint.name.removeprefix("step_")
    is_number = checkpoint.name.startswith("step_") and digits.isdecimal() and len(digits) < 16
    return int(digits) if is_number else None


def _differences(before: Any, now: Any, key: str = "") -> Iterator[tuple[str, Any, Any]]:
    if isinstance(before, dict) and isinstance(now, dict):
        for name in before.keys() | now.keys():
            yield from _differences(before.get(name), now.get(name), f"{key}.{name}".lstrip("."))
    elif before != now:
        yield key, before, now
