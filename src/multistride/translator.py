"""Translation models: texts in, translations out."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal, NoReturn

from multistride.decode.options import Mode
from multistride.decode.plan import Plan
from multistride.decode.score import score_pairs
from multistride.engines.names import EngineName
from multistride.engines.open import opened_model
from multistride.errors import UsageError
from multistride.shipped import existing
from multistride.text_model import Pairs, TextModel, divided, scored_size, tokens_of
from multistride.translation import SourceModel, Translation, listed


class Translator(SourceModel[Plan], TextModel):
    """A model with an encoder, and its vocabulary. Sources and translations are single lines."""

    @classmethod
    def load(
        cls,
        directory: Path | str | None = None,
        device: str = "auto",
        engine: EngineName = "auto",
    ) -> Translator:
        """Return the model in a directory, or a shipped model by name; None: English to German.

        Raises `DataError` if the directory is not a model directory, `UsageError` for an unknown
        device or engine and for a model without an encoder, `MissingExtraError` for an engine that
        needs a library that is not installed.
        """
        path = existing(directory)
        opened = opened_model(path, device, engine)
        if not opened[0].config.encoder_layers:
            raise UsageError(
                f"{path} is a causal model, which has no source to translate: use generate"
            )
        return cls.of_directory(opened, path, device, engine)

    def translate(
        self,
        texts: Iterable[str],
        group_size: int | Literal["auto"] = 1,
        mode: Mode = "fast",
        **choices: Any,
    ) -> list[Translation]:
        """Translate texts, `group_size` tokens per step; the n-th result belongs to the n-th text.

        `group_size` may be "auto": see `plan`. `choices` are other fields of
        `decode.options.DecodeOptions`: `beam`, `threshold`, `prefix`, `stop`, `max_tokens` and so
        on. A blank text has a blank translation; a text that is too long has none, and
        `problem` says so. Raises `UsageError` for a group size below 1 or above the largest that
        the checkpoint was trained for (16 in exact mode with drafts text), and for any
        other choice that is unknown, out of range, or
        belongs to another mode.
        """
        return self.written(listed(texts), self._plan(group_size, mode, choices))

    def generate(self, *arguments: Any, **choices: Any) -> NoReturn:
        """Raise `UsageError`: a model with an encoder translates."""
        raise UsageError("this model has an encoder, so it translates: use translate")

    def score(self, pairs: Pairs, group_size: int = 1) -> list[list[float] | None]:
        """Return the natural log-probability of every token of each target, EOS included, given its
        source. A target may also be a list of tokens, such as `Translation.tokens`: the tokenizer
        may cut a text into other tokens than those in which the model wrote it.

        The n-th list belongs to the n-th pair; None where a text is too long. Raises `UsageError`
        for a group size the checkpoint cannot write, for tokens it does not have, and for a model
        that was exported as int8: scores are those of float32 weights.
        """
        firsts, seconds = divided(pairs)
        sources = self.encode(firsts)
        size = scored_size(group_size)
        targets = tokens_of(seconds, self.vocabulary.encode_target, self.config.vocabulary_size)
        both = list(zip(sources, targets, strict=True))
        fits = [not (self.problem(source) or self.problem(target)) for source, target in both]
        fitting = [pair for pair, fit in zip(both, fits, strict=True) if fit]
        scores = iter(score_pairs(self.engine.model, fitting, size))
        return [next(scores) if fit else None for fit in fits]
