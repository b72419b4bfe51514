"""Translate texts of several sentences, each sentence alone.

A model that was trained on single sentences joins several of them, leaves some out, and errs more
the larger K is; translated one by one, each has the length that the model knows.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import islice

from multistride.data.sentences import sentences_of
from multistride.decode.options import DecodeOptions
from multistride.decode.plan import Plan
from multistride.translation import (
    Translation,
    joined_sentences,
    listed,
    refuse_single,
    too_long,
)
from multistride.translator import Translator


class SentenceTranslator(Translator):
    """A translator that cuts every text at the ends of its sentences and joins the translations.

    A blank stands between two sentences of a translation, whatever stood between their sources.
    Tokens, scores and trace are those of the sentences, one after the other, so scores and trace
    have every sentence's EOS. A text of which a sentence is too long for the model has no
    translation.
    """

    def __init__(self, translator: Translator) -> None:
        super().__init__(translator.engine, translator.vocabulary, translator.directory)
        self.share(translator)

    def planned(
        self, options: DecodeOptions, *, streaming: bool = False, auto: bool = False
    ) -> Plan:
        """Return the plan of `options`.

        Raises `UsageError` for options of single sentences, and as the base does.
        """
        refuse_single(options, streaming, "texts of several sentences")
        return super().planned(options, streaming=streaming, auto=auto)

    def problem(self, tokens: Sequence[int]) -> str | None:
        """Return why a sentence of these tokens cannot be translated; None if it can."""
        return too_long(tokens, self.config, "split it")

    def written(self, texts: Iterable[str], plan: Plan) -> list[Translation]:
        """Return the translations of texts, made sentence by sentence. Raises as the base does."""
        parts = [sentences_of(text) for text in listed(texts)]
        translated = iter(super().written([part for each in parts for part in each], plan))
        return [joined_sentences(list(islice(translated, len(each)))) for each in parts]
