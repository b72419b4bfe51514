"""`pipeline("translation", ...)`, which transformers 5 has no more: texts in, `translation_text` out."""

from __future__ import annotations

from typing import Any

import transformers
from transformers import pipelines
from transformers.pipelines import PIPELINE_REGISTRY, SUPPORTED_TASKS, Pipeline

TASK = "translation"


class TranslationPipeline(Pipeline):
    """Translate texts with an encoder-decoder; arguments of `generate` may be given with the call."""

    _load_processor = False
    _load_image_processor = False
    _load_feature_extractor = False
    _load_tokenizer = True

    def _sanitize_parameters(self, **settings: Any) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        return {}, settings, {}

    def preprocess(self, text: str) -> Any:
        """The source's tokens [1, S]."""
        return self.tokenizer(text, return_tensors="pt", return_token_type_ids=False)

    def _forward(self, inputs: Any, **settings: Any) -> Any:
        return self.model.generate(**inputs, **{"num_beams": 1, **settings})

    def postprocess(self, tokens: Any) -> list[dict[str, str]]:
        """The text of what was written."""
        return [{"translation_text": self.tokenizer.decode(tokens[0], skip_special_tokens=True)}]


def register_translation() -> None:
    """Make the task known where transformers does not know it; its list of removed tasks is shorter by this one."""
    if TASK not in SUPPORTED_TASKS:
        getattr(pipelines, "REMOVED_TASKS", {}).pop(TASK, None)
        PIPELINE_REGISTRY.register_pipeline(
            TASK,
            pipeline_class=TranslationPipeline,
            pt_model=transformers.AutoModelForSeq2SeqLM,
            type="text",
        )
