"""A model one can talk to: texts in, translations out. What `multistride.load` returns."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from multistride.data.detokenize import TextStream, one_line, until
from multistride.data.vocab import Vocabulary
from multistride.decode.batch import begin_batch
from multistride.decode.choosing.auto import best, check_auto, costly_layout, explained, offers
from multistride.decode.choosing.calibration import Calibration
from multistride.decode.choosing.strategy import Measured
from multistride.decode.constraints import Constraints, constraints_of
from multistride.decode.corpus import decode_corpus, source_batch
from multistride.decode.options import DecodeOptions
from multistride.decode.phrases import PhraseTable
from multistride.decode.score import score_pairs
from multistride.decode.state import Ending, Group, Hypothesis
from multistride.device import pick_device
from multistride.engines.open import Engine, check_engine, open_engine, open_export
from multistride.engines.timing import cached_costs
from multistride.errors import DataError, UsageError
from multistride.model.config import TransformerConfig
from multistride.model.weights import load_calibration, load_model, weights_digest
from multistride.shipped import directory as find_directory


@dataclass(frozen=True)
class Translation:
    """One text's translation.

    `tokens` are ids without EOS; `scores` the natural log-probability of every token written, EOS
    included; `trace` what each step wrote; `ending` why it stopped (by a stop text: `text` is cut
    before it, the tokens that hold it stay in `tokens`); `problem` why there is no translation
    (then `text` is empty), else None.
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

    `text` is the part that is certain now: the parts of all groups joined are the translation's
    text. `ending` says why the sentence is over; it is None for all groups but the last.
    """

    text: str
    group: Group
    ending: Ending | None


class Translator:
    """A model with its vocabulary."""

    def __init__(
        self, engine: Engine[Any], vocabulary: Vocabulary, directory: Path | None = None
    ) -> None:
        self.engine = engine
        self.vocabulary = vocabulary
        self.directory = directory

    @classmethod
    def load(
        cls,
        directory: Path | str | None = None,
        device: str = "auto",
        engine: str = "eager",
        report: Callable[[str], None] = lambda line: None,
    ) -> Translator:
        """Read a model directory, or the shipped model of that name; None: the default one.

        `report` hears what engine `auto` picked.

        Raises `DataError` if the directory is no model directory, `UsageError` for an unknown
        device or engine and for a model that has no encoder, `MissingExtraError` for an engine that
        needs a library that is not there.
        """
        place = find_directory(directory)
        opened = opened_model(place, device, engine, report)
        if not opened[0].config.encoder_layers:
            raise UsageError(
                f"{place} is a causal model, which has no source to translate: use generate"
            )
        return cls(*opened, place)

    shape = staticmethod(one_line)
    """What is made of a decoded text: a translation is one line, as its source was."""

    @property
    def config(self) -> TransformerConfig:
        """The model's sizes, special tokens and group sizes."""
        return self.engine.config

    @cached_property
    def measured(self) -> Measured:
        """What is known of the model, if anything: its calibration, its phrases, and what decoding
        teaches meanwhile.

        Raises `DataError` if one of them is damaged, or the calibration belongs to other weights.
        """
        if self.directory is None:
            return Measured()
        calibration = load_calibration(self.directory, Calibration)
        return Measured(calibration, phrases=PhraseTable.load(self.directory))

    def settled(
        self,
        group_size: int | str,
        report: Callable[[str], None] = lambda line: None,
        **choices: Any,
    ) -> DecodeOptions:
        """Options whose group size is a number, chosen by the cost model where `group_size` is
        "auto" (and reported).

        What the policy asked for needs to know is measured meanwhile. Raises `UsageError` as
        `translate` does.
        """
        largest = max(self.config.group_sizes)
        auto = group_size == "auto"
        options = DecodeOptions.made(group_size=largest if auto else group_size, **choices).checked(
            self.config
        )
        if auto and options.policy != "cost-model":
            check_auto(options, self.measured)
        if auto or options.policy == "cost-model":
            layout = costly_layout(options, self.config)
            if layout not in self.measured.costs:
                digest = weights_digest(self.directory) if self.directory else ""
                costs = cached_costs(
                    self.engine, self.engine.name, layout, options.batch_size, digest, report
                )
                self.measured.costs[layout] = costs
        if not auto or options.policy == "cost-model":  # the policy chooses anew in every step
            return options
        offered = offers(options, self.config, self.measured)
        report(explained(offered))
        return options.model_copy(update={"group_size": best(offered).group_size})

    def measured_for(self, options: DecodeOptions) -> Measured | None:
        """What is known of the model, where `options` ask for a way of decoding that uses it."""
        return self.measured if options.mode != "fast" else None

    def translate(
        self, texts: Sequence[str], group_size: int | str = 1, mode: str = "fast", **choices: Any
    ) -> list[Translation]:
        """Translate texts, `group_size` tokens per step; the n-th result belongs to the n-th text.

        `group_size` may be "auto": see `settled`. `choices` are other fields of
        `decode.options.DecodeOptions`: `beam`, `threshold`, `prefix`, `stop` and so on. A blank
        text has a blank translation; one that is too long has none, and says so in `problem`.
        Raises `UsageError` for a group size outside 1 ... the largest the checkpoint was trained
        for, and for any other choice that is unknown, out of range, or goes with another mode.
        """
        options = self.settled(group_size, mode=mode, **choices)
        return self.written(texts, options, self.checked(options))

    def checked(self, options: DecodeOptions, streaming: bool = False) -> Constraints:
        """The constraints of `options`, if the model can do what they ask. Raises `UsageError` if
        it cannot.
        """
        (options.checked_for_streaming if streaming else options.checked)(self.config)
        return constraints_of(options, self.config, self.vocabulary)

    def stream(
        self, text: str, group_size: int | str = 1, mode: str = "fast", **choices: Any
    ) -> Iterator[StreamedGroup]:
        """Translate one text and yield every group as soon as it is written; stop taking them to
        cancel.

        The text is the one `translate` gives for the same choices. A blank text has no groups.
        Raises as `translate` does, at once; `UsageError` for a beam, whose best hypothesis is known
        only in the end; `DataError` for a text that is too long.
        """
        return self._streamed(
            text, self.settled(group_size, mode=mode, **{**choices, "batch_size": 1})
        )

    def stream_line(self, line: bytes, options: DecodeOptions) -> Iterator[StreamedGroup]:
        """`stream` for a line of UTF-8. Raises `DataError` also if it is none."""
        text = _decoded(line)
        if text is None:
            raise DataError("it is not valid UTF-8")
        return self._streamed(text, options)

    def generate(
        self, prompts: Sequence[str], group_size: int | str = 1, mode: str = "fast", **choices: Any
    ) -> list[Translation]:
        """Continue prompts; only causal models do: see `generator.Generator`. Others raise
        `UsageError`.
        """
        raise UsageError(
            "this model has an encoder, so it translates: use translate, or load a causal model"
        )

    def _streamed(self, text: str, options: DecodeOptions) -> Iterator[StreamedGroup]:
        constraints = self.checked(options, streaming=True)
        [tokens] = self._encode([text])
        if problem := self.problem(tokens):
            raise DataError(problem)
        return (
            iter(())
            if self._without_decoding(text, tokens)
            else self._groups(tokens, options, constraints)
        )

    def _groups(
        self, tokens: list[int], options: DecodeOptions, constraints: Constraints
    ) -> Iterator[StreamedGroup]:
        written = TextStream(self.vocabulary, options.stop, self.shape)
        batch = source_batch([tokens], self.config)
        state, passes = begin_batch(
            self.engine, *batch, options, constraints, self.measured_for(options)
        )
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
        """Translate lines of UTF-8 as they come, `buffer` at a time: n lines in, n translations
        out, in order.

        A line that is not UTF-8 has no translation, and says so in `problem`. Raises as `translate`
        does.
        """
        constraints = self.checked(options)
        for chunk in _chunks(lines, buffer):
            texts = [_decoded(line) for line in chunk]
            written = iter(
                self.written([text for text in texts if text is not None], options, constraints)
            )
            for text in texts:
                yield (
                    next(written)
                    if text is not None
                    else Translation("", problem="it is not valid UTF-8")
                )

    def written(
        self, texts: Sequence[str], options: DecodeOptions, constraints: Constraints
    ) -> list[Translation]:
        """What the model writes for texts, sources or prompts, within constraints that `checked`
        gave or that go on from those; the n-th result belongs to the n-th text.
        """
        tokens = self._encode(texts)
        results = [
            self._without_decoding(text, row) for text, row in zip(texts, tokens, strict=True)
        ]
        open_places = [place for place, result in enumerate(results) if result is None]
        sources = [tokens[place] for place in open_places]
        hypotheses = decode_corpus(
            self.engine,
            sources,
            options,
            constraints=constraints,
            measured=self.measured_for(options),
        )
        written = iter(self._translations(hypotheses, options.stop))
        return [result if result is not None else next(written) for result in results]

    def score(
        self, pairs: Sequence[tuple[str, str | Sequence[int]]], group_size: int = 1
    ) -> list[list[float] | None]:
        """Return the natural log-probability of every token of the second texts, EOS included,
        given the first. A second one may also be tokens, as `Translation.tokens` has them: a text
        that a model wrote may be cut into other tokens than it wrote.

        The n-th list belongs to the n-th pair; None where a text is too long. Raises `UsageError`
        for a group size the checkpoint cannot write.
        """
        sources = self.vocabulary.encode_source([source for source, _ in pairs])
        targets = tokens_of([target for _, target in pairs], self.vocabulary.encode_target)
        fits = [
            not (self.problem(source) or self.problem(target))
            for source, target in zip(sources, targets, strict=True)
        ]
        fitting = [
            pair for pair, fit in zip(zip(sources, targets, strict=True), fits, strict=True) if fit
        ]
        scores = iter(score_pairs(self.engine.model, fitting, group_size))
        return [next(scores) if fit else None for fit in fits]

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """The tokens that the model reads of each text, less a final end of sentence."""
        return self._encode(texts)

    def _encode(self, texts: Sequence[str]) -> list[list[int]]:
        return self.vocabulary.encode_source(list(texts))

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


def tokens_of(
    texts: Sequence[str | Sequence[int]], encode: Callable[[Sequence[str]], list[list[int]]]
) -> list[list[int]]:
    """Return the tokens of texts, and tokens as they are."""
    encoded = iter(encode([text for text in texts if isinstance(text, str)]))
    return [next(encoded) if isinstance(text, str) else list(text) for text in texts]


def opened_model(
    directory: Path, device: str, engine: str, report: Callable[[str], None] = lambda line: None
) -> tuple[Engine[Any], Vocabulary]:
    """The engine of a model directory (or of an export), and its vocabulary. Raises as
    `Translator.load` does.
    """
    check_engine(engine)
    if exported := open_export(directory, engine, report=report):
        return exported
    model, vocabulary = load_model(directory, pick_device(device))
    if not model.config.decoder_layers:
        raise UsageError(f"{directory} is a classifier, which writes nothing: use classify")
    return open_engine(model, engine, report=report), vocabulary


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
