"""Write a corpus in parts, each whole or not at all, so that work can stop at any moment.

`OUTPUT.parts/` holds `plan.json` (all that decides what is written) and one file for each chunk of
the source. The first line of a part says, as JSON, which lines it holds, the SHA-256 of the source
lines and of its own, and how they came about; then the lines follow. A part counts only if all of
that holds, so no line can ever stand beside another's source.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import BaseModel, ConfigDict, ValidationError

from multistride.errors import DataError, UsageError, UserError, shown
from multistride.files import LEFTOVER, replacing_file, sweep, write_json
from multistride.locks import exclusive
from multistride.untrusted import parse_json, read_bytes, read_object

logger = logging.getLogger(__name__)

MOST_PART = 1 << 32
"""Bytes of a part that are read; it has some thousand lines."""


class Chunk(NamedTuple):
    """Consecutive source lines; `first` is the number of the first one, counted from 1."""

    number: int
    first: int
    lines: list[bytes]


class PartHeader(BaseModel):
    """The header of a part."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    first: int
    lines: int
    source_sha256: str
    sha256: str
    empty: dict[str, int]
    unfinished: int
    seconds: float


class Part(NamedTuple):
    """The translations of a chunk, in order, and what is known of them."""

    header: PartHeader
    lines: list[bytes]


def chunks(lines: Iterable[bytes], size: int) -> Iterator[Chunk]:
    """The lines in pieces of `size`, the last one shorter."""
    iterator = iter(lines)
    number = 0
    while taken := list(islice(iterator, size)):
        yield Chunk(number, number * size + 1, taken)
        number += 1


class PartsDirectory:
    """The unfinished work on one output."""

    def __init__(self, output: Path) -> None:
        self.output = output
        self.path = output.with_name(output.name + ".parts")

    @contextmanager
    def opened(self, plan: dict[str, Any]) -> Iterator[None]:
        """Begin, or go on with what the same plan began; nobody else can until the block ends.

        A plan under which no part was finished is forgotten.

        Raises `UsageError` naming what differs from the plan it was begun with, if another process
        is at work, or if the directory holds what was not written here.
        """
        self.sweep()
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            reason = error.strerror or str(error)
            raise UserError(
                f"could not write {self.path}: {reason}; name another output"
            ) from error
        try:
            self._refuse_foreign()
            with exclusive(self.path, "wait for it, or name another output"):
                sweep(self.path)
                (self.path / "lock").unlink(missing_ok=True)  # earlier versions locked a file
                self._begin(plan)
                yield
        finally:
            with suppress(OSError):  # a refused start leaves no empty directory behind
                self.path.rmdir()

    def sweep(self) -> None:
        """Remove what a killed process left beside the output."""
        for name in (self.path.name, self.output.name):
            sweep(self.output.parent, name)

    def has(self, chunk: Chunk) -> bool:
        """Return True if there is a part of this number, good or bad."""
        return self._place(chunk).exists()

    def is_done(self, chunk: Chunk) -> bool:
        """Return whether there is a good part of a chunk; a bad one will be made again."""
        if not self.has(chunk):
            return False
        try:
            self.read(chunk)
        except DataError as error:
            logger.info(f"note: {str(error).partition(':')[0]}; it is done again")
            return False
        return True

    def write(
        self, chunk: Chunk, texts: list[str], empty: dict[str, int], unfinished: int, seconds: float
    ) -> None:
        """Write one part, atomically: a text for every line of the chunk."""
        assert len(texts) == len(chunk.lines), "a part has a line for every line of its source"
        lines = [text.encode("utf-8") for text in texts]
        assert not any(b"\n" in line for line in lines), "a translation is one line"
        header = PartHeader(
            first=chunk.first,
            lines=len(lines),
            source_sha256=_hash(chunk.lines),
            sha256=_hash(lines),
            empty=empty,
            unfinished=unfinished,
            seconds=seconds,
        )
        with replacing_file(self._place(chunk)) as temporary:
            temporary.write_bytes(
                b"".join(line + b"\n" for line in (header.model_dump_json().encode(), *lines))
            )

    def read(self, chunk: Chunk) -> Part:
        """The part of a chunk. Raises `DataError` if there is none, or it is damaged or of other
        source lines.
        """
        place = self._place(chunk)
        try:
            first, *lines, rest = read_bytes(place, MOST_PART).split(b"\n")
            header = PartHeader.model_validate(parse_json(first))
        except (DataError, ValueError, ValidationError) as error:
            raise DataError(
                f"{place} is missing or damaged: run the same command again to have it redone"
            ) from error
        expected = (chunk.first, len(chunk.lines), _hash(chunk.lines))
        if (header.first, header.lines, header.source_sha256) != expected:
            raise DataError(
                f"{place} is of other source lines: run the same command again to have it redone"
            )
        if rest or len(lines) != header.lines or _hash(lines) != header.sha256:
            raise DataError(f"{place} is damaged: run the same command again to have it redone")
        return Part(header, lines)

    def discard(self) -> None:
        """Remove all parts. A crash here leaves a hidden directory, not half of the parts.

        What somebody else has put there meanwhile stays.
        """
        if self._foreign():
            for place in (*self.path.glob("*.part"), self.path / "plan.json"):
                place.unlink(missing_ok=True)
            return
        prefix = f".{self.path.name}.new."  # a name that `files.sweep` knows
        hidden = Path(tempfile.mkdtemp(dir=self.path.parent, prefix=prefix))
        os.replace(self.path, hidden)
        shutil.rmtree(hidden, ignore_errors=True)

    def _foreign(self) -> list[str]:
        """Return the names in the directory that no plan or part has."""
        ours = re.compile(r"plan\.json|lock|\d+\.part|" + LEFTOVER.pattern)
        names = (path.name for path in self.path.iterdir())
        return sorted(name for name in names if not ours.fullmatch(name))

    def _refuse_foreign(self) -> None:
        foreign = self._foreign()
        place = self.path / "plan.json"
        if not foreign and place.exists() and not any(self.path.glob("*.part")):
            with suppress(DataError):
                if "multistride" in read_object(place):  # the version that began
                    return
            foreign = [place.name]
        if foreign:
            raise UsageError(
                f"{self.path} is for unfinished parts and holds {foreign[0]}, which was not "
                "written here: move it away, or name another output"
            )

    def _place(self, chunk: Chunk) -> Path:
        return self.path / f"{chunk.number:06}.part"

    def _begin(self, plan: dict[str, Any]) -> None:
        place = self.path / "plan.json"
        if not any(self.path.glob("*.part")):
            write_json(place, plan)
            return
        if not place.exists():
            raise DataError(
                f"{self.path} has parts and no plan.json: delete it, or name another output"
            )
        try:
            before = read_object(place)
        except DataError as error:
            raise DataError(f"{place} is damaged: delete {self.path} to begin anew") from error
        names = sorted(
            name for name in before.keys() | plan.keys() if before.get(name) != plan.get(name)
        )
        if names:
            differing = "; ".join(
                f"{name} was {shown(before.get(name))}, is {shown(plan.get(name))}"
                for name in names
            )
            raise UsageError(
                f"{self.path} was begun with other settings ({differing}): "
                "give the same ones to go on, or delete it to begin anew"
            )


def _hash(lines: list[bytes]) -> str:
    digest = hashlib.sha256()
    for line in lines:
        digest.update(line + b"\n")
    return digest.hexdigest()
