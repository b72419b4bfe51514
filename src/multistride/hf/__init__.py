"""Model directories in transformers: one import, and its Auto classes know them.

    >>> import multistride.hf
    >>> model = AutoModelForSeq2SeqLM.from_pretrained(directory)
    >>> model.generate(**tokenizer(text, return_tensors="pt"), group_size=4, mode="exact")

Needs the extra `hf` (transformers 5). Tokenizers need no import: their files are those of `PreTrainedTokenizerFast`.
"""

from __future__ import annotations

from multistride.errors import MissingExtraError

try:
    import transformers
except ImportError as error:
    raise MissingExtraError(
        "multistride.hf needs transformers, which is not installed: pip install 'multistride[hf]'"
    ) from error


def check_version(version: str) -> None:
    """Raise `MissingExtraError` for a version of transformers that lacks what is built on here."""
    if int(version.partition(".")[0]) < 5:
        raise MissingExtraError(
            f"multistride.hf needs transformers 5, found {version}, whose tokenizers read model directories without "
            "it: pip install 'multistride[hf]'"
        )


check_version(transformers.__version__)

from multistride.hf.generation import generate
from multistride.hf.model import MultistrideConfig, MultistrideForCausalLM, MultistrideForSeq2SeqLM
from multistride.hf.pipeline import pipeline, register_translation

__all__ = ["MultistrideConfig", "MultistrideForCausalLM", "MultistrideForSeq2SeqLM", "generate", "pipeline"]

transformers.AutoConfig.register("multistride", MultistrideConfig, exist_ok=True)
transformers.AutoModelForCausalLM.register(MultistrideConfig, MultistrideForCausalLM, exist_ok=True)
transformers.AutoModelForSeq2SeqLM.register(MultistrideConfig, MultistrideForSeq2SeqLM, exist_ok=True)
register_translation()
