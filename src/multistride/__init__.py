"""multistride: train, convert, run, measure and serve Transformers that write K tokens per step.

The pipeline, from raw text to one measured checkpoint for every K:

    prepare    clean parallel text, build the vocabulary, write token arrays   data/prepare.py
    train      an autoregressive teacher (groups.sizes: {1: 1.0})              train/loop.py
    distill    the training text translated by the teacher                     distill/run.py
    train      one checkpoint for every K, on that text                        train/layouts.py
    evaluate   quality, steps and latency by K                                 evaluate/run.py
    bench      speed against other programs that run the same weights          evaluate/bench/
    report     a table, a picture, a page                                      report/
    serve      the model over HTTP                                             serve/

    >>> model = multistride.load("runs/multi30k/multistride/best")
    >>> [translation] = model.translate(["Two dogs run."], group_size=4)
    >>> translation.text, len(translation.trace)          # the text, and the steps it took

Importing the package loads nothing; the names below load what they need when they are first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from multistride.version import __version__

if TYPE_CHECKING:
    from multistride.errors import UserError
    from multistride.generator import Generator
    from multistride.loading import load
    from multistride.text_model import StreamedGroup
    from multistride.translation import Translation
    from multistride.translator import Translator

_HOMES = {
    "Generator": "multistride.generator",
    "load": "multistride.loading",
    "StreamedGroup": "multistride.text_model",
    "Translation": "multistride.translation",
    "Translator": "multistride.translator",
    "UserError": "multistride.errors",
}

__all__ = [
    "Generator",
    "StreamedGroup",
    "Translation",
    "Translator",
    "UserError",
    "__version__",
    "load",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'multistride' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
