"""Locks on files and directories, which the system releases however their holder ends.

They are advisory locks of the kernel (`flock`), on Linux and macOS. Windows has none on
directories: there `exclusive` says once that two processes would not notice each other.
"""

from __future__ import annotations

import errno
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from multistride.errors import UsageError

if sys.platform != "win32":
    import fcntl

logger = logging.getLogger(__name__)

_NO_LOCKS = {errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EBADF, errno.EINVAL, errno.ENOSYS}
"""What file systems without locks answer."""


class Unsupported(Exception):
    """The system or the file system has no locks."""


def try_lock(path: Path) -> int | None:
    """Lock a file or directory until the returned descriptor is closed; None if another holds it.

    Raises `Unsupported` where there are no locks, `OSError` if the path cannot be opened.
    """
    if sys.platform == "win32":
        raise Unsupported
    descriptor = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    except OSError as error:
        os.close(descriptor)
        if error.errno in _NO_LOCKS:
            raise Unsupported from error
        raise
    return descriptor


@contextmanager
def exclusive(directory: Path, way_out: str) -> Iterator[None]:
    """Hold a directory. Raises `UsageError`, which ends in `way_out`, if another process does."""
    try:
        descriptor = try_lock(directory)
    except Unsupported:
        logger.warning(
            f"{directory} cannot be locked on this system: let only one process write to it"
        )
        yield
        return
    if descriptor is None:
        raise UsageError(f"another process is writing to {directory}: {way_out}")
    try:
        yield
    finally:
        os.close(descriptor)
