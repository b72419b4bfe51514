"""ONNX Runtime, imported when a graph is first opened.

It takes a tenth of a second and 20 MB, and models that the native kernels compute seldom need it.
"""

from __future__ import annotations

import importlib
import importlib.util
from functools import cache
from typing import Any

from multistride.errors import MissingExtraError

OLDEST = (1, 25)
"""The ONNX Runtime that first had `TensorScatter` on CPUs."""


def installed() -> bool:
    """Return true if ONNX Runtime can be imported."""
    return importlib.util.find_spec("onnxruntime") is not None


@cache
def onnxruntime() -> Any:
    """Return the module.

    Raises `MissingExtraError` if it is older than `OLDEST`.
    """
    module = importlib.import_module("onnxruntime")
    if tuple(map(int, module.__version__.split(".")[:2])) < OLDEST:
        raise MissingExtraError(
            f"the engine int8 was asked for; it needs ONNX Runtime {OLDEST[0]}.{OLDEST[1]} or "
            f"later, and {module.__version__} is installed: pip install --upgrade "
            "'multistride[int8]', or choose --engine eager"
        )
    return module
