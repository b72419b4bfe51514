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
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
)

from multistride.hf.config import MultistrideConfig
from multistride.hf.generation import generate
from multistride.hf.model import MultistrideForCausalLM, MultistrideForSeq2SeqLM
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
# Trainer looks here whether labels are moved by one (label smoothing).
MODEL_FOR_CAUSAL_LM_MAPPING_NAMES["multistride"] = MultistrideForCausalLM.__name__
MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES["multistride"] = MultistrideForSeq2SeqLM.__name__
register_translation()
