"""Names of the files of prepared directories, and the hash of what they hold."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from multistride.data.vocab import Vocabulary

MANIFEST_FILE = "prepare.json"
FORMAT = 1
SPLITS = ("train", "validation")
SIDES = ("source", "target")
TEXT = "text"
LABELLED = "labelled"
"""The kind of a prepared directory whose documents have classes."""

Arrays = dict[str, NDArray[Any]]
"""File names and what they hold."""


def array_name(split: str, side: str, content: str) -> str:
    """Return the file of a split that holds `content`.

    `tokens` [total] and `offsets` [texts + 1], where each text begins, of a side (source, target,
    text); for text also `known` [texts], how many tokens of each are read and not predicted, or
    `labels` [texts], their classes.
    """
    return f"{split}.{side}.{content}.npy"


def token_type(vocabulary: Vocabulary) -> type[np.uint16] | type[np.int32]:
    """Return the smallest type of ours that holds every token."""
    return np.uint16 if len(vocabulary) < 65536 else np.int32


def hash_arrays(arrays: Arrays) -> str:
    """Return the SHA-256 over the names, types and contents of all arrays."""
    digest = hashlib.sha256()
    for name, array in sorted(arrays.items()):
        digest.update(f"{name} {array.dtype.str} {array.size}\n".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()
