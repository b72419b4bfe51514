"""The directory of a training run: `run.yaml`, `metrics.jsonl`, `checkpoints/step_N/`, `best`,
`last`.

Each checkpoint is a whole model directory, with `training.pt` beside the model for resuming. `best`
and `last` are links to checkpoints, so `--model RUN/best` is all a user needs to know.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from multistride.errors import UsageError
from multistride.files import replacing_file


class RunDirectory:
    """Paths and records of one run. Nothing here knows what a model is."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self.checkpoints = self.path / "checkpoints"
        self.metrics = self.path / "metrics.jsonl"

    def open(
        self,
        config: dict[str, Any],
        resume: bool,
        complete: Callable[[Any], dict[str, Any]] = lambda stored: stored,
    ) -> None:
        """Create the directory and write `run.yaml`; `complete` adds to a stored one what has been
        added since.

        Raises `UsageError` if a run is there already and `resume` is false, or was made with
        another configuration.
        """
        settings = self.path / "run.yaml"
        if settings.is_file():
            if not resume:
                raise UsageError(
                    f"{self.path} holds a run already: add --resume to continue it, or choose another place"
                )
            self._same(complete(yaml.safe_load(settings.read_text(encoding="utf-8"))), config)
            return
        with replacing_file(settings) as temporary:
            temporary.write_text(
                yaml.safe_dump(config, sort_keys=False, allow_unicode=True), encoding="utf-8"
            )

    def checkpoint(self, update: int) -> Path:
        """Where the checkpoint after `update` updates lies."""
        return self.checkpoints / f"step_{update}"

    def point(self, name: str, update: int) -> None:
        """Let the link `name` (best or last) name the checkpoint of `update`."""
        link, temporary = self.path / name, self.path / f".{name}.new"
        temporary.unlink(missing_ok=True)
        temporary.symlink_to(Path("checkpoints") / f"step_{update}")
        os.replace(temporary, link)

    def last(self) -> Path | None:
        """The checkpoint to go on from: `last`, the newest one left if that was deleted, or
        None.
        """
        link = self.path / "last"
        if link.is_dir():
            return link.resolve()
        left = self.by_age() if link.is_symlink() else []
        return left[-1].resolve() if left else None

    def prune(self, keep: int) -> None:
        """Delete all but the newest `keep` checkpoints; `best` and `last` stay whatever their
        age.
        """
        linked = {(self.path / name).resolve() for name in ("best", "last")}
        for old in self.by_age()[:-keep]:
            if old.resolve() not in linked:
                shutil.rmtree(old, ignore_errors=True)

    def record(self, entry: dict[str, Any]) -> None:
        """Append one line to `metrics.jsonl`."""
        with open(self.metrics, "a", encoding="utf-8") as file:
            file.write(json.dumps(entry, ensure_ascii=False) + "\n")

    def rewind(self, update: int) -> None:
        """Drop the metrics of updates after `update`: a resumed run writes them again."""
        if not self.metrics.is_file():
            return
        entries = [
            json.loads(line)
            for line in self.metrics.read_text(encoding="utf-8").splitlines()
            if line.endswith("}")
        ]
        with replacing_file(self.metrics) as temporary:
            kept = [
                json.dumps(entry, ensure_ascii=False) + "\n"
                for entry in entries
                if entry["update"] <= update
            ]
            temporary.write_text("".join(kept), encoding="utf-8")

    def by_age(self) -> list[Path]:
        """The checkpoints, oldest first."""
        numbered = [
            path
            for path in self.checkpoints.glob("step_*")
            if path.name.removeprefix("step_").isdigit()
        ]
        return sorted(numbered, key=lambda path: int(path.name.removeprefix("step_")))

    def _same(self, before: Any, now: dict[str, Any]) -> None:
        differing = sorted(_differences(before, now))
        if differing:
            raise UsageError(
                f"{self.path} was started with another configuration ({'; '.join(differing)}): "
                "restore it to resume, or choose another place"
            )


def _differences(before: Any, now: Any, key: str = "") -> list[str]:
    if isinstance(before, dict) and isinstance(now, dict):
        return [
            line
            for name in before.keys() | now.keys()
            for line in _differences(before.get(name), now.get(name), f"{key}.{name}".lstrip("."))
        ]
    return [] if before == now else [f"{key} was {before}, is {now}"]
