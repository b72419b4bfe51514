"""Pipelines: `pipeline("translation", model=directory)`, which transformers 5 has no more.

transformers 5 refuses the name "translation" before it looks at what is registered. Its list of
removed tasks is not ours to change, so the task has a name of its own there, and `pipeline` here
knows it by the old one.
"""

from __future__ import annotations

from typing import Any

import transformers
from transformers.pipelines import PIPELINE_REGISTRY, Pipeline

TASK = "multistride-translation"
"""The name under which transformers knows the task."""


class TranslationPipeline(Pipeline):
    """Translate texts with an encoder-decoder; arguments of `generate` may be given with the
    call.
    """

    _load_processor = False
    _load_image_processor = False
    _load_feature_extractor = False
    _load_tokenizer = True

    def __call__(self, texts: Any, *others: Any, **settings: Any) -> Any:
        """Return one result for a text, a list of them for a list of texts."""
        found = super().__call__(texts, *others, **settings)
        listed = isinstance(texts, list) and all(isinstance(text, str) for text in texts)
        return [result for [result] in found] if listed else found

    def _sanitize_parameters(
        self, **settings: Any
    ) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        return {}, settings, {}

    def preprocess(self, text: str) -> Any:
        """Return the source's tokens [1, S]."""
        return self.tokenizer(text, return_tensors="pt", return_token_type_ids=False)

    def _forward(self, inputs: Any, **settings: Any) -> Any:
        return self.model.generate(**inputs, **{"num_beams": 1, **settings})

    def postprocess(self, tokens: Any) -> list[dict[str, str]]:
        """Return the text of what was written."""
        return [{"translation_text": self.tokenizer.decode(tokens[0], skip_special_tokens=True)}]


def pipeline(task: str, **settings: Any) -> Pipeline:
    """`transformers.pipeline`, where "translation" means ours: texts in, `translation_text` out."""
    return transformers.pipeline(TASK if task == "translation" else task, **settings)


def register_translation() -> None:
    """Make the task known to transformers."""
    if TASK not in PIPELINE_REGISTRY.get_supported_tasks():
        PIPELINE_REGISTRY.register_pipeline(
            TASK,
            pipeline_class=TranslationPipeline,
            pt_model=transformers.AutoModelForSeq2SeqLM,
            type="text",
        )
