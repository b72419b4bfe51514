"""Pipelines: `pipeline("translation", model=directory)`, which transformers 5 has no more.

transformers 5 refuses the name "translation" before it looks at what is registered. Its list of
removed tasks is not ours to change, so the task has a name of its own there, and `pipeline` here
knows it by the old one.
"""

from __future__ import annotations

from typing import Any

import transformers
from transformers.pipelines import PIPELINE_REGISTRY, Pipeline

from multistride.data.vocab import unencodable
from multistride.errors import DataError, UsageError

TASK = "multistride-translation"
"""The name under which transformers knows the task."""

SHOWN = 40
"""Most characters of a wrong input that an error shows."""


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
        if isinstance(texts, tuple):
            texts = list(texts)
        if texts == []:
            return []
        found = super().__call__(texts, *others, **settings)
        return [result for [result] in found] if isinstance(texts, list) else found

    def _sanitize_parameters(
        self, **settings: Any
    ) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        return {}, settings, {}

    def preprocess(self, text: Any) -> Any:
        """Return the source's tokens [1, S].

        Raises `UsageError` for what is no text, `DataError` for one that is no UTF-8.
        """
        if not isinstance(text, str):
            raise UsageError(
                f"{repr(text)[:SHOWN]} ({type(text).__name__}) was given to be translated: "
                "give a text or a list of texts"
            )
        try:
            return self.tokenizer(text, return_tensors="pt", return_token_type_ids=False)
        except TypeError as error:
            raise DataError(unencodable([text])) from error

    def _forward(self, inputs: Any, **settings: Any) -> Any:
        return self.model.generate(**inputs, **{"num_beams": 1, **settings})

    def postprocess(self, tokens: Any) -> list[dict[str, str]]:
        """Return the text of what was written."""
        return [{"translation_text": self.tokenizer.decode(tokens[0], skip_special_tokens=True)}]


def pipeline(task: str, model: Any = None, **settings: Any) -> Pipeline:
    """`transformers.pipeline`, where "translation" means ours: texts in, `translation_text` out.

    Raises `UsageError` for a translation without a model, of which transformers has no default.
    """
    if task in ("translation", TASK):
        if model is None:
            raise UsageError(
                f"pipeline({task!r}) was asked for without a model: "
                'give one, as in pipeline("translation", model="RUN/best")'
            )
        task = TASK
    return transformers.pipeline(task, model, **settings)


def register_translation() -> None:
    """Make the task known to transformers."""
    if TASK not in PIPELINE_REGISTRY.get_supported_tasks():
        PIPELINE_REGISTRY.register_pipeline(
            TASK,
            pipeline_class=TranslationPipeline,
            pt_model=transformers.AutoModelForSeq2SeqLM,
            type="text",
        )
