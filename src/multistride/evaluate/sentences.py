"""The sentences of a test set, and which of them are taken."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from multistride.data.corpus import Pair, Unreadable, read_lines, read_parallel
from multistride.data.sentences import sentences_of
from multistride.errors import DataError
from multistride.text_model import TextModel

logger = logging.getLogger(__name__)


class Passage(list[int]):
    """The tokens of a text whose `sentences` are translated one by one."""

    def __init__(self, sentences: list[list[int]]) -> None:
        super().__init__(token for sentence in sentences for token in sentence)
        self.sentences = sentences


@dataclass(frozen=True)
class TestSet:
    """Sources and references, line by line, and the tokens of those that can be decoded (else
    None).

    Without a reference file `references` is empty.
    """

    sources: list[str]
    references: list[str]
    tokens: list[list[int] | None]

    @property
    def places(self) -> list[int]:
        """Return the indices of the lines that are decoded."""
        return [place for place, tokens in enumerate(self.tokens) if tokens is not None]

    def decodable(self) -> list[list[int]]:
        """Return the source tokens of those lines."""
        return [tokens for tokens in self.tokens if tokens is not None]


def read_test_set(
    translator: TextModel,
    source: Path,
    reference: Path | None,
    limit: int | None,
    by_sentence: bool = False,
) -> TestSet:
    """Read the first `limit` lines (None: all) of a source file and its reference file.

    With `by_sentence` the tokens of a line are a `Passage`. Lines that cannot be decoded
    are logged. Raises `DataError` for files that cannot be read, do not align, or hold no line that
    can be decoded.
    """
    sources, references = read_texts(source, reference, limit)
    if references and not any(text.strip() for text in references):
        raise DataError(f"{reference} holds only blank lines: give the reference of each source")
    tokens: list[list[int] | None] = []
    for line, (text, ids) in enumerate(
        zip(sources, _encoded(translator, sources, by_sentence), strict=True), start=1
    ):
        problem = _problem(translator, ids)
        if problem:
            logger.warning(f"line {line}: {problem}; it counts as an empty translation")
        tokens.append(ids if text.strip() and not problem else None)
    if all(ids is None for ids in tokens):
        raise DataError(f"{source} holds no line that can be translated: give a file with text")
    return TestSet(sources, references, tokens)


def _encoded(translator: TextModel, texts: list[str], by_sentence: bool) -> list[list[int]]:
    if not by_sentence:
        return translator.encode(texts)
    parts = [sentences_of(text) for text in texts]
    encoded = iter(translator.encode([part for each in parts for part in each]))
    return [Passage(list(islice(encoded, len(each)))) for each in parts]


def _problem(translator: TextModel, tokens: list[int]) -> str | None:
    """Return why a line cannot be translated, or one of its sentences; None if it can."""
    if not isinstance(tokens, Passage):
        return translator.problem(tokens)
    problems = filter(None, map(translator.problem, tokens.sentences))
    problem = next(problems, None)
    return f"one of its sentences: {problem}" if problem and len(tokens.sentences) > 1 else problem


def read_texts(
    source: Path, reference: Path | None, limit: int | None
) -> tuple[list[str], list[str]]:
    """Return the first `limit` lines of a source file and its reference file, if there is one."""
    sources: list[str] = []
    references: list[str] = []
    if reference is None:
        for line, data in enumerate(read_lines(source), start=1):
            try:
                sources.append(data.decode("utf-8"))
            except UnicodeDecodeError as error:
                raise DataError(f"{source}: line {line}: invalid utf-8: repair it") from error
            if len(sources) == limit:
                break
        return sources, references
    for line, record in enumerate(read_parallel(source, reference), start=1):
        if isinstance(record, Unreadable):
            raise DataError(f"{source} and {reference}: line {line}: {record.reason}: repair it")
        assert isinstance(record, Pair)
        sources.append(record.source)
        references.append(record.target)
        if len(sources) == limit:
            break
    return sources, references
