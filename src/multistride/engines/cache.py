"""The directory of what is kept between processes."""

from __future__ import annotations

import os
from pathlib import Path


def cache_directory() -> Path:
    """Return the directory of measurements of this machine.

    It is `$XDG_CACHE_HOME/multistride`, by default `~/.cache/multistride`. A user without a home
    directory, as in many containers, has none: what is returned then cannot be written.
    """
    given, home = os.environ.get("XDG_CACHE_HOME", ""), os.path.expanduser("~")
    if os.path.isabs(given):  # the standard has relative ones ignored
        return Path(given) / "multistride"
    return Path(home if os.path.isabs(home) else os.devnull) / ".cache" / "multistride"
