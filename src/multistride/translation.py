"""Lines of text through a model: n lines in, n results out, in order.

`LineModel` is the base of all models that write text. Nothing here needs PyTorch.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, ClassVar, Generic, Protocol, TypeVar

from multistride.data.detokenize import one_line, until
from multistride.data.vocab import Vocabulary
from multistride.decode.ending import Ending
from multistride.decode.hypothesis import Group, Hypothesis
from multistride.decode.options import DecodeOptions
from multistride.errors import UsageError
from multistride.model.config import TransformerConfig

NOT_UTF8 = "it is not valid UTF-8"


MOST_TEXT = 2 << 20
"""Bytes of a line that is cut into tokens, which takes a hundred times as much memory."""


@dataclass(frozen=True)
class Translation:
    """The text that a model wrote for one input.

    `tokens` are ids without EOS; `scores` the natural log-probability of every token written, EOS
    included; `trace` what each step wrote; `ending` why it stopped (by a stop text: `text` is cut
    before it, the tokens that hold it stay in `tokens`); `problem` why there is no text (then
    `text` is empty), else None.
    """

    text: str
    tokens: tuple[int, ...] = ()
    scores: tuple[float, ...] = ()
    trace: tuple[Group, ...] = ()
    ending: Ending | None = None
    problem: str | None = None

    def __repr__(self) -> str:
        if self.problem is not None:
            return f"{type(self).__name__}(problem={self.problem!r})"
        counts = f"{len(self.tokens)} tokens in {len(self.trace)} steps, ending={self.ending!r}"
        return f"{type(self).__name__}({self.text!r}, {counts})"


def refuse_single(options: DecodeOptions, streaming: bool, what: str) -> None:
    """Raise `UsageError` if options of single sentences were chosen for `what`."""
    for_one = {
        "streaming": streaming,
        "a prefix": bool(options.prefix),
        "a stop text": bool(options.stop),
        "a minimum length": bool(options.min_tokens),
        "a maximum length": options.max_tokens is not None,
    }
    given = next((name for name, used in for_one.items() if used), None)
    if given is not None:
        raise UsageError(
            f"{given} was given, which is for single sentences, and {what} were asked for: "
            "leave one of them out"
        )


def joined_sentences(parts: list[Translation]) -> Translation:
    """Return the sentences of one text as one. A text of which one has no translation has none."""
    if len(parts) == 1:
        return parts[0]
    for part in parts:
        if part.problem:
            return Translation("", problem=f"one of its sentences: {part.problem}")
    return Translation(
        " ".join(part.text for part in parts),
        tuple(token for part in parts for token in part.tokens),
        tuple(score for part in parts for score in part.scores),
        tuple(group for part in parts for group in part.trace),
        next((part.ending for part in parts if part.ending == "limit"), parts[-1].ending),
    )


def line_fault(line: bytes) -> str:
    """Return why a line has no text."""
    if len(line) > MOST_TEXT:
        return f"it has {len(line):,} bytes, at most {MOST_TEXT:,} are read as one text: split it"
    return NOT_UTF8


def decoded_line(line: bytes) -> str | None:
    """Return the text of a line of UTF-8 without its end; None if it is too long or not UTF-8.

    Raises `UsageError` for what is no bytes.
    """
    if not isinstance(line, bytes | bytearray):
        raise UsageError(f"a line of type {type(line).__name__} was given: give bytes of UTF-8")
    if len(line) > MOST_TEXT:
        return None
    try:
        return line.rstrip(b"\r\n").decode("utf-8")
    except UnicodeDecodeError:
        return None


class Planned(Protocol):
    """A way of decoding whose options are known."""

    @property
    def options(self) -> DecodeOptions:
        """The options it was made of."""


P = TypeVar("P", bound=Planned)


class LineModel(ABC, Generic[P]):
    """A model that writes a text for a text, decoded as a plan says."""

    shape: ClassVar[Any] = staticmethod(one_line)
    """What is made of a decoded text."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.vocabulary = vocabulary

    @property
    @abstractmethod
    def config(self) -> TransformerConfig:
        """The model's sizes, special tokens and group sizes."""

    @abstractmethod
    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the tokens that the model reads of each text, less a final EOS."""

    @abstractmethod
    def problem(self, tokens: Sequence[int]) -> str | None:
        """Return why a text of these tokens cannot be decoded; None if it can."""

    @abstractmethod
    def is_blank(self, text: str) -> bool:
        """Return True for a text whose result is blank, without decoding."""

    @abstractmethod
    def decoded(self, rows: Sequence[Sequence[int]], plan: P) -> list[Hypothesis]:
        """Return what the model writes for the tokens of texts that can be decoded."""

    def written(self, texts: Iterable[str], plan: P) -> list[Translation]:
        """Return what the model writes for texts; the n-th result belongs to the n-th text.

        A text that cannot be decoded has none, and says so in `problem`. Raises `UsageError` for
        what is no list of texts, or for a plan of another model.
        """
        texts = listed(texts)
        tokens = self.encode(texts)
        results = [
            self._without_decoding(text, row) for text, row in zip(texts, tokens, strict=True)
        ]
        open_rows = [row for row, result in zip(tokens, results, strict=True) if result is None]
        hypotheses = self.decoded(open_rows, plan)
        decoded = iter(self._translations(hypotheses, plan.options.stop))
        return [next(decoded) if result is None else result for result in results]

    def translate_lines(
        self, lines: Iterable[bytes], plan: P, buffer: int = 1024
    ) -> Iterator[Translation]:
        """Decode lines of UTF-8 as they come, `buffer` at a time: n lines in, n results, in order.

        A line that is not UTF-8, or has more than `MOST_TEXT` bytes, has no text, and says so in
        `problem`. Raises `UsageError` for what is no bytes, or for a plan of another model.
        """
        if buffer < 1:
            raise UsageError(f"a buffer of {buffer} lines was given: give 1 or more")
        remaining = iter(lines)
        while chunk := list(islice(remaining, buffer)):
            texts = [decoded_line(line) for line in chunk]
            decoded = iter(self.written([text for text in texts if text is not None], plan))
            for line, text in zip(chunk, texts, strict=True):
                yield Translation("", problem=line_fault(line)) if text is None else next(decoded)

    def _without_decoding(self, text: str, tokens: Sequence[int]) -> Translation | None:
        if self.is_blank(text):
            return Translation("")
        problem = self.problem(tokens)
        return Translation("", problem=problem) if problem else None

    def _translations(
        self, hypotheses: Sequence[Hypothesis], stops: Sequence[str]
    ) -> Iterator[Translation]:
        texts = self.vocabulary.decode_all([hypothesis.tokens for hypothesis in hypotheses])
        for text, hypothesis in zip(texts, hypotheses, strict=True):
            yield Translation(
                self.shape(until(text, stops)),
                tuple(hypothesis.tokens),
                tuple(hypothesis.log_probabilities),
                tuple(hypothesis.groups),
                hypothesis.ending,
            )


class SourceModel(LineModel[P]):
    """A model with an encoder: a text is the source of a translation, one line of it."""

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the source tokens of each text, without EOS, and without blanks around it: no
        model saw such in training (`multistride prepare`).
        """
        return self.vocabulary.encode_source(
            [text.removeprefix("\ufeff").strip() for text in texts]
        )

    def problem(self, tokens: Sequence[int]) -> str | None:
        """Return why a source of these tokens cannot be translated; None if it can."""
        return too_long(tokens, self.config)

    def is_blank(self, text: str) -> bool:
        """Return True for a text of blanks: its translation is blank."""
        return not text.strip()


def too_long(
    tokens: Sequence[int],
    config: TransformerConfig,
    advice: str = "split it into sentences",
) -> str | None:
    """Return why a source of these tokens cannot be translated; None if it can."""
    longest = config.max_positions - 1
    if len(tokens) > longest:
        return f"it has {len(tokens):,} tokens, at most {longest} are allowed: {advice}"
    return None


def listed(texts: Iterable[str]) -> list[str]:
    """Return the texts as a list.

    Raises `UsageError` for a bare string, which is a list of its letters, and for what is no text.
    """
    if isinstance(texts, str):
        raise UsageError(
            "one string was given, a list of texts is expected: write [text] instead of text"
        )
    if not isinstance(texts, Iterable):
        raise UsageError(f"{texts!r} was given, a list of texts is expected: write [text]")
    strings = list(texts)
    for index, text in enumerate(strings):
        if not isinstance(text, str):
            raise UsageError(
                f"text {index} is of type {type(text).__name__}: give a list of strings"
            )
    return strings
