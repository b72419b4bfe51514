"""The library that all of this stands on, in a version that has what is needed."""

from __future__ import annotations

from multistride.errors import MissingExtraError

try:
    import transformers
except ImportError as error:
    raise MissingExtraError(
        "multistride.hf needs transformers, which is not installed: pip install 'multistride[hf]'"
    ) from error

__all__ = ["check_version", "transformers"]


def check_version(version: str) -> None:
    """Raise `MissingExtraError` for a version of transformers that lacks what is built on here."""
    if int(version.partition(".")[0]) < 5:
        raise MissingExtraError(
            f"multistride.hf needs transformers 5, found {version}, whose tokenizers read model "
            "directories without "
            "it: pip install 'multistride[hf]'"
        )


check_version(transformers.__version__)
