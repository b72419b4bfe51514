"""Arrays in `.npy` files that nobody vouches for.

Apart from `untrusted`, so that the command line can start without NumPy.
"""

from __future__ import annotations

import math
import os
import tokenize
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from multistride.errors import DataError
from multistride.untrusted import COPY_AGAIN


def read_array(path: Path | str, advice: str = COPY_AGAIN, mapped: bool = False) -> NDArray[Any]:
    """Return the array in a .npy file, which must have the size that its header claims.

    `mapped`: leave it on disk. Raises `DataError` for anything else; objects are never read.
    """
    try:
        with open(path, "rb") as file:
            version = np.lib.format.read_magic(file)
            if version not in ((1, 0), (2, 0)):
                raise ValueError("unknown version")
            reader = (
                np.lib.format.read_array_header_1_0
                if version == (1, 0)
                else np.lib.format.read_array_header_2_0
            )
            shape, fortran, kind = reader(file)
            left = os.fstat(file.fileno()).st_size - file.tell()
        if kind.hasobject or kind.itemsize == 0 or (fortran and len(shape) > 1):
            raise ValueError("not an array of plain numbers")
        if min(shape, default=0) < 0 or math.prod(shape) * kind.itemsize != left:
            raise ValueError("the header and the size of the file differ")
        return np.asanyarray(np.load(path, mmap_mode="r" if mapped and left else None))
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror or error}): {advice}") from error
    except (
        ValueError,
        TypeError,
        SyntaxError,
        EOFError,
        OverflowError,
        MemoryError,
        RecursionError,
        KeyError,
        IndexError,
        tokenize.TokenError,
    ) as error:
        reason = " ".join(str(error).split())[:100]
        raise DataError(f"{path} is damaged (cut short or corrupt: {reason}): {advice}") from error
