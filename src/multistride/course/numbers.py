"""Numbers of the course: where each stands in a result file, and how it is written.

An expression such as `generators.rows[AR].bleu:.1f` names a result file, a way into it and a
format. `[...]` picks an entry of a list by its index, its name, or facts
(`group_size=4,mode=fast`). Two ways may be divided or subtracted: `a / b:.2f`, `a - b:.2f`. The
format ends in `p` for percentage points: `a - b:.1p`.
"""

from __future__ import annotations

import json
import re
import subprocess
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any

from multistride.errors import DataError
from multistride.version import __version__

PLACEHOLDER = re.compile(r"\{\{\s*([^{}]+?)\s*\}\}")
_PART = re.compile(r"\.?([A-Za-z_][\w-]*)|\[([^\]]+)\]")


class MissingResult(DataError):
    """No such result was recorded."""


@dataclass
class Results:
    """Result files: experiments of the course first, then what the project recorded."""

    recorded: Path
    experiments: Path
    used: dict[str, str] = field(default_factory=dict)
    """Names of the files that were read, and their hashes."""

    touched: set[str] = field(default_factory=set)
    """Names that were read since it was last cleared."""

    _trees: dict[str, Any] = field(default_factory=dict)

    def path(self, name: str) -> Path:
        """Return the file of a result. Raises `DataError` if there is none."""
        own, other = self.experiments / f"{name}.json", self.recorded / f"{name}.json"
        for path in (own, other):
            if path.is_file():
                return path
        raise MissingResult(
            f"the result {name}.json is neither in {self.experiments} nor in {self.recorded}: give "
            "the directory of results with --results, or make it with multistride course run"
        )

    def tree(self, name: str) -> Any:
        """Return the contents of a result file.

        Raises `DataError` if it is missing, is not JSON, or belongs to another version.
        """
        self.touched.add(name)
        if name not in self._trees:
            path = self.path(name)
            content = path.read_bytes()
            try:
                tree = json.loads(content)
            except ValueError as error:
                raise DataError(f"{path} is not JSON ({error}): make it again") from error
            if path.parent == self.experiments and tree.get("multistride") != __version__:
                raise DataError(
                    f"{path} was made by multistride {tree.get('multistride')}, this is "
                    f"{__version__}: make it again with {tree.get('command', 'course run')}"
                )
            self._trees[name] = tree
            self.used[name] = sha256(content).hexdigest()
        return self._trees[name]

    def value(self, way: str) -> Any:
        """Return what a way leads to. Raises `DataError` where it leads nowhere."""
        name, _, rest = way.strip().partition(".")
        found = self.tree(name)
        for key, chosen in _PART.findall(rest):
            try:
                found = found[key] if key else _entry(found, chosen)
            except (KeyError, IndexError, TypeError, StopIteration) as error:
                raise DataError(
                    f"{self.path(name)} has no {way!r}: it is of another version; make it again"
                ) from error
        return found

    def shown(self, expression: str) -> str:
        """Return the text of an expression."""
        ways, _, form = expression.partition(":")
        for sign in (" / ", " - "):
            if sign in ways:
                first, second = (float(self.value(way)) for way in ways.split(sign))
                if sign == " / " and not second:
                    return "–"
                return _formatted(first / second if sign == " / " else first - second, form)
        value = self.value(ways)
        return "–" if value is None else _formatted(value, form)

    @cached_property
    def _commits(self) -> dict[str, str]:
        """Return the commits that recorded the files; none of a shallow clone or of changed files.

        Files that `course run` wrote name their commit themselves.
        """
        if _said_by_git(self.recorded, "rev-parse", "--is-shallow-repository").strip() != "false":
            return {}
        commits: dict[str, str] = {}
        commit = ""
        history = ("log", "--format=@%h", "--name-only", "--relative", "--", ".")
        for line in filter(None, _said_by_git(self.recorded, *history).splitlines()):
            if line.startswith("@"):
                commit = line[1:]
            else:
                commits.setdefault(line, commit)
        for changed in _said_by_git(
            self.recorded, "diff", "--name-only", "--relative", "HEAD", "--", "."
        ).splitlines():
            commits.pop(changed, None)
        return commits

    def small(self, names: set[str]) -> bool:
        """Return whether one of these results comes from an experiment that was not run in full."""
        return any(
            self.path(name).parent == self.experiments
            and self.tree(name).get("profile", "full") != "full"
            for name in sorted(names)
        )

    def provenance(self, name: str) -> dict[str, str]:
        """Return what made a result: command, commit, machine, seed, as far as its file says."""
        tree = self.tree(name)
        settings = {**tree, **(tree.get("settings") or {})}
        if isinstance(tree.get("machine"), dict):
            settings |= tree["machine"]
        made = settings.get("provenance") or {}
        machine = settings.get("machine")
        if not isinstance(machine, str):
            machine = ", ".join(
                part
                for part in (
                    str(settings.get("cpu") or ""),
                    f"{settings['threads']} thread(s)" if settings.get("threads") else "",
                    f"torch {settings['torch']}" if settings.get("torch") else "",
                )
                if part
            )
        version = settings.get("multistride") or made.get("multistride")
        commit = settings.get("commit") or self._commits.get(f"{name}.json")
        return {
            "command": str(settings.get("command") or "–"),
            "commit": str(commit or (f"multistride {version}" if version else "–")),
            "machine": machine or "–",
            "seed": str(settings.get("seed") or made.get("seed") or "–"),
        }


def _said_by_git(directory: Path, *arguments: str) -> str:
    """Return what git says of a directory; nothing where it has nothing to say."""
    try:
        done = subprocess.run(
            ["git", "-C", str(directory), *arguments], capture_output=True, text=True, check=False
        )
    except OSError:
        return ""
    return done.stdout if not done.returncode else ""


def _formatted(value: Any, form: str) -> str:
    if form.endswith("p"):  # Python has no such format, and a difference of shares is no share
        return format(100 * value, form[:-1] + "f")
    return format(value, form)


def _entry(found: Any, chosen: str) -> Any:
    if isinstance(found, dict):
        return found[chosen]
    if chosen.lstrip("-").isdigit():
        return found[int(chosen)]
    named = [entry for entry in found if entry.get("name") == chosen]
    if named:
        return named[0]
    facts = (
        dict(fact.split("=", 1) for fact in chosen.split(","))
        if "=" in chosen
        else {"name": chosen}
    )
    return next(
        entry
        for entry in found
        if all(str(entry.get(name)) == value for name, value in facts.items())
    )
