"""A model one can talk to: texts in, translations out. What `multistride.load` returns."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from multistride.data.detokenize import TextStream, one_line
from multistride.data.vocab import Vocabulary
from multistride.decode.corpus import decode_corpus, source_batch
from multistride.decode.loop import begin_batch
from multistride.decode.options import DecodeOptions
from multistride.decode.score import score_pairs
from multistride.decode.state import Ending, Group, Hypothesis
from multistride.device import pick_device
from multistride.errors import DataError, UsageError
from multistride.model.config import TransformerConfig
from multistride.model.step import EagerStepModel
from multistride.model.weights import load_model
from multistride.shipped import DEFAULT


@dataclass(frozen=True)
class Translation:
    """One text's translation.

    `tokens` are ids without EOS; `scores` the natural log-probability of every token written, EOS included;
    `trace` what each step wrote; `ending` why it stopped; `problem` why there is no translation (then `text` is
    empty), else None.
    """

    text: str
    tokens: tuple[int, ...] = ()
    scores: tuple[float, ...] = ()
    trace: tuple[Group, ...] = ()
    ending: Ending | None = None
    problem: str | None = None


@dataclass(frozen=True)
class StreamedGroup:
    """What one step added to a translation.

    `text` is the part that is certain now: the parts of all groups joined are the translation's text. `ending` says
    why the sentence is over; it is None for all groups but the last.
    """

    text: str
    group: Group
    ending: Ending | None


class Translator:
    """A model with its vocabulary."""

    def __init__(self, engine: EagerStepModel, vocabulary: Vocabulary) -> None:
        self.engine = engine
        self.vocabulary = vocabulary

    @classmethod
    def load(cls, directory: Path | str | None = None, device: str = "auto") -> Translator:
        """Read a model directory; None: the one that ships.

        Raises `DataError` if the directory is no model directory, `UsageError` for an unknown device, and for a model
        that has no encoder where one is needed.
        """
        model, vocabulary = load_model(DEFAULT if directory is None else directory, pick_device(device))
        if not model.config.encoder_layers:
            raise UsageError(f"{directory} is a causal model, which has no source to translate: use generate")
        return cls(EagerStepModel(model), vocabulary)

    shape = staticmethod(one_line)
    """What is made of a decoded text: a translation is one line, as its source was."""

    @property
    def config(self) -> TransformerConfig:
        """The model's sizes, special tokens and group sizes."""
        return self.engine.config

    def translate(
        self, texts: Sequence[str], group_size: int = 1, mode: str = "fast", **choices: Any
    ) -> list[Translation]:
        """Translate texts, `group_size` tokens per step; the n-th result belongs to the n-th text.

        `choices` are other fields of `decode.options.DecodeOptions`: `beam`, `threshold`, `batch_size` and so on. A
        blank text has a blank translation; one that is too long has none, and says so in `problem`. Raises
        `UsageError` for a group size outside 1 ... the largest the checkpoint was trained for, and for any other
        choice that is unknown, out of range, or goes with another mode.
        """
        options = DecodeOptions.made(group_size=group_size, mode=mode, **choices)
        return self._translated(texts, options.checked(self.config))

    def stream(self, text: str, group_size: int = 1, mode: str = "fast", **choices: Any) -> Iterator[StreamedGroup]:
        """Translate one text and yield every group as soon as it is written; stop taking them to cancel.

        The text is the one `translate` gives for the same choices. A blank text has no groups. Raises as `translate`
        does, at once; `UsageError` for a beam, whose best hypothesis is known only in the end; `DataError` for a text
        that is too long.
        """
        return self._streamed(text, DecodeOptions.made(group_size=group_size, mode=mode, **choices))

    def stream_line(self, line: bytes, options: DecodeOptions) -> Iterator[StreamedGroup]:
        """`stream` for a line of UTF-8. Raises `DataError` also if it is none."""
        text = _decoded(line)
        if text is None:
            raise DataError("it is not valid UTF-8")
        return self._streamed(text, options)

    def generate(
        self, prompts: Sequence[str], group_size: int = 1, mode: str = "fast", **choices: Any
    ) -> list[Translation]:
        """Continue prompts; only causal models do: see `generator.Generator`. Others raise `UsageError`."""
        raise UsageError("this model has an encoder, so it translates: use translate, or load a causal model")

    def _streamed(self, text: str, options: DecodeOptions) -> Iterator[StreamedGroup]:
        options.checked_for_streaming(self.config)
        [tokens] = self._encode([text])
        if problem := self.problem(tokens):
            raise DataError(problem)
        return iter(()) if self._without_decoding(text, tokens) else self._groups(tokens, options)

    def _groups(self, tokens: list[int], options: DecodeOptions) -> Iterator[StreamedGroup]:
        written = TextStream(self.vocabulary, self.shape)
        state, passes = begin_batch(self.engine, *source_batch([tokens], self.config), options)
        [hypothesis] = state.hypotheses
        known = 0
        for _ in passes:
            text = written.add(hypothesis.tokens[known:])
            known = len(hypothesis.tokens)
            if hypothesis.ending is not None:
                text += written.end()
            yield StreamedGroup(text, hypothesis.groups[-1], hypothesis.ending)

    def translate_lines(
        self, lines: Iterable[bytes], options: DecodeOptions, buffer: int = 1024
    ) -> Iterator[Translation]:
        """Translate lines of UTF-8 as they come, `buffer` at a time: n lines in, n translations out, in order.

        A line that is not UTF-8 has no translation, and says so in `problem`. Raises as `translate` does.
        """
        options.checked(self.config)
        for chunk in _chunks(lines, buffer):
            texts = [_decoded(line) for line in chunk]
            written = iter(self._translated([text for text in texts if text is not None], options))
            for text in texts:
                yield next(written) if text is not None else Translation("", problem="it is not valid UTF-8")

    def _translated(self, texts: Sequence[str], options: DecodeOptions) -> list[Translation]:
        tokens = self._encode(texts)
        results = [self._without_decoding(text, row) for text, row in zip(texts, tokens, strict=True)]
        open_places = [place for place, result in enumerate(results) if result is None]
        hypotheses = decode_corpus(self.engine, [tokens[place] for place in open_places], options)
        written = iter(self._translations(hypotheses))
        return [result if result is not None else next(written) for result in results]

    def score(self, pairs: Sequence[tuple[str, str]], group_size: int = 1) -> list[list[float] | None]:
        """The natural log-probability of every token of the second texts, EOS included, given the first.

        The n-th list belongs to the n-th pair; None where a text is too long. Raises `UsageError` for a group size
        the checkpoint cannot write.
        """
        sources = self.vocabulary.encode([source for source, _ in pairs])
        targets = self.vocabulary.encode_targets([target for _, target in pairs])
        fits = [
            not (self.problem(source) or self.problem(target))
            for source, target in zip(sources, targets, strict=True)
        ]
        fitting = [pair for pair, fit in zip(zip(sources, targets, strict=True), fits, strict=True) if fit]
        scores = iter(score_pairs(self.engine.model, fitting, group_size))
        return [next(scores) if fit else None for fit in fits]

    def _encode(self, texts: Sequence[str]) -> list[list[int]]:
        """The tokens that decoding begins with, text by text."""
        return self.vocabulary.encode(list(texts))

    def problem(self, tokens: Sequence[int]) -> str | None:
        """Why a source of these tokens cannot be translated; None if it can."""
        longest = self.config.max_positions - 1
        if len(tokens) > longest:
            return f"it has {len(tokens):,} tokens, at most {longest} are allowed: split it"
        return None

    def _without_decoding(self, text: str, tokens: Sequence[int]) -> Translation | None:
        if not text.strip():
            return Translation("")
        problem = self.problem(tokens)
        return Translation("", problem=problem) if problem else None

    def _translations(self, hypotheses: Sequence[Hypothesis]) -> Iterator[Translation]:
        texts = self.vocabulary.decode_all([hypothesis.tokens for hypothesis in hypotheses])
        for text, hypothesis in zip(texts, hypotheses, strict=True):
            yield Translation(
                self.shape(text),
                tuple(hypothesis.tokens),
                tuple(hypothesis.log_probabilities),
                tuple(hypothesis.groups),
                hypothesis.ending,
            )


def _chunks(lines: Iterable[bytes], size: int) -> Iterator[list[bytes]]:
    chunk: list[bytes] = []
    for line in lines:
        chunk.append(line)
        if len(chunk) == size:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def _decoded(line: bytes) -> str | None:
    try:
        return line.rstrip(b"\r\n").decode("utf-8")
    except UnicodeDecodeError:
        return None
