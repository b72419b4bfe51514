"""Model directories in transformers: one import, and its Auto classes know them.

    >>> import multistride.hf
    >>> model = AutoModelForSeq2SeqLM.from_pretrained(directory)
    >>> model.generate(**tokenizer(text, return_tensors="pt"), group_size=4, mode="exact")

Needs the extra `hf` (transformers 5). Tokenizers need no import: their files are those of
`PreTrainedTokenizerFast`.
"""

from __future__ import annotations

from multistride.hf.required import transformers

# isort: split
from multistride.hf.generation import generate
from multistride.hf.model import MultistrideConfig, MultistrideForCausalLM, MultistrideForSeq2SeqLM
from multistride.hf.pipeline import pipeline, register_translation

__all__ = [
    "MultistrideConfig",
    "MultistrideForCausalLM",
    "MultistrideForSeq2SeqLM",
    "generate",
    "pipeline",
]

transformers.AutoConfig.register("multistride", MultistrideConfig, exist_ok=True)
transformers.AutoModelForCausalLM.register(MultistrideConfig, MultistrideForCausalLM, exist_ok=True)
transformers.AutoModelForSeq2SeqLM.register(
    MultistrideConfig, MultistrideForSeq2SeqLM, exist_ok=True
)
register_translation()
