"""The base of translators and generators: texts in, texts out, group by group if wanted.

`Translator` and `Generator` say what a text is read as, and which texts need no decoding; here is
how texts, lines and streams go through a model. That n lines in become n lines out is the work of
`translation.LineModel.written`, which decodes what can be decoded and refills the holes.
"""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, TypeAlias

from multistride.data.detokenize import TextStream
from multistride.data.vocab import Vocabulary
from multistride.decode.batch import begin_batch
from multistride.decode.choosing.auto import best, check_auto, costly_layout, explained, offers
from multistride.decode.choosing.strategy import Measured
from multistride.decode.corpus import decode_corpus, source_batch
from multistride.decode.ending import Ending
from multistride.decode.hypothesis import Group, Hypothesis
from multistride.decode.options import DecodeOptions, Mode
from multistride.decode.plan import Plan, plan
from multistride.engines.interface import Engine, announce, is_automatic
from multistride.engines.timing import cached_costs
from multistride.errors import DataError, UsageError
from multistride.model.config import TransformerConfig
from multistride.model.directory import weights_digest
from multistride.shipped import is_shipped
from multistride.translation import LineModel, decoded_line, line_fault

logger = logging.getLogger(__name__)


Pairs: TypeAlias = Sequence[tuple[str, str | Sequence[int]]]
"""Sources or prompts, each with a text or its tokens."""


@dataclass(frozen=True)
class StreamedGroup:
    """The text that one step added.

    `text` is the part that is certain now: joined, the parts of all groups are the whole text.
    `ending` says why the text ended; it is None for all groups but the last.
    """

    text: str
    group: Group
    ending: Ending | None


class TextModel(LineModel[Plan]):
    """An engine with its vocabulary; `directory` is where they were read from."""

    def __init__(
        self, engine: Engine[Any], vocabulary: Vocabulary, directory: Path | None = None
    ) -> None:
        super().__init__(vocabulary)
        self.engine = engine
        self.directory = directory
        self._plans: dict[tuple[DecodeOptions, frozenset[str]], Plan] = {}

    def __repr__(self) -> str:
        where = self.directory
        name = where.name if where and is_shipped(where) else where or "of no directory"
        return f"{type(self).__name__}({name}: {self.config.summary}, engine {self.engine.name})"

    @property
    def config(self) -> TransformerConfig:
        """The model's sizes, special tokens and group sizes."""
        return self.engine.config

    @property
    def causal(self) -> bool:
        """Return True for a model without an encoder, which continues prompts."""
        return not self.config.encoder_layers

    @abstractmethod
    def score(self, pairs: Pairs, group_size: int = 1) -> list[list[float] | None]:
        """Return the natural log-probability of every token of each second text, given the first.

        The n-th list belongs to the n-th pair; None where a text is too long.
        """

    def chatting(self, system: str | None = None) -> TextModel:
        """Return the model with every prompt as a user's turn, after the `system` text if given.

        Raises `UsageError` for a model without a chat template.
        """
        raise UsageError(
            "this model has no chat template: leave --chat out, or use a model made for chat"
        )

    @cached_property
    def measured(self) -> Measured:
        """Calibration, phrases, a draft head, and statistics that decoding adds.

        Raises `DataError` if one of them is damaged, or the calibration belongs to other weights.
        """
        return Measured.read(self.directory, self.config)

    def plan(
        self,
        group_size: int | Literal["auto"] = 1,
        mode: Mode = "fast",
        *,
        streaming: bool = False,
        **choices: Any,
    ) -> Plan:
        """Return how to decode: everything checked and decided, once for any number of texts.

        `group_size` may be "auto": the size that the cost model expects to be fastest. `choices`
        are other fields of `decode.options.DecodeOptions`. With `streaming`, options whose text is
        known only at the end are refused. Raises `UsageError` for a value that is unknown or out of
        range, or that the model or the mode does not take.
        """
        auto = group_size == "auto"
        size = max(self.config.group_sizes) if auto else group_size
        options = DecodeOptions.made(group_size=size, mode=mode, **choices)
        return self.planned(options, streaming=streaming, auto=auto)

    def planned(
        self, options: DecodeOptions, *, streaming: bool = False, auto: bool = False
    ) -> Plan:
        """Return the plan of options; with `auto` their group size is the largest to choose from.

        Raises as `plan` does.
        """
        if streaming and options.beam > 1:
            raise UsageError(
                f"beam {options.beam} was asked for, and its best text is known only in the end: "
                "choose beam 1, or translate without streaming"
            )
        asked = options, frozenset(options.model_fields_set)
        if not auto and asked in self._plans:
            return self._plans[asked]
        priced = options.policy == "cost-model"
        knowledge = self.measured if auto or priced or options.mode != "fast" else None
        if priced:
            options.checked(self.config)  # what is refused is refused before anything is timed
            self.price(options)
        chosen = plan(options, self.config, self.vocabulary, knowledge)
        if is_automatic(self.engine):
            chosen = chosen.thrifty()
        if not auto or priced:  # that policy chooses anew in every step
            self._plans[asked] = chosen
            return chosen
        check_auto(options, self.measured)
        self.price(options)
        offered = offers(options, self.config, self.measured)
        logger.info(explained(offered))
        return chosen.of_size(best(offered).group_size)

    def price(self, options: DecodeOptions) -> None:
        """Know what steps cost: measured on this machine once, and kept between processes."""
        layout = costly_layout(options, self.config)
        if layout not in self.measured.costs:
            digest = weights_digest(self.directory) if self.directory else ""
            self.measured.costs[layout] = cached_costs(
                self.engine, self.engine.name, layout, options.batch_size, digest, logger.info
            )

    def decoded(self, rows: Sequence[Sequence[int]], plan: Plan) -> list[Hypothesis]:
        """Return what the model writes for the tokens of texts that can be decoded."""
        if rows:
            announce(self.engine)
        return decode_corpus(self.engine, rows, plan)

    def stream(
        self,
        text: str,
        group_size: int | Literal["auto"] = 1,
        mode: Mode = "fast",
        **choices: Any,
    ) -> Iterator[StreamedGroup]:
        """Decode one text and yield every group as soon as it is written; stop iterating to cancel.

        Joined, the parts are what `translate` or `generate` returns for the same choices. A blank
        text has no groups. Raises their errors at once; `UsageError` also for beam search, whose
        best hypothesis is known only at the end; `DataError` for a text that is too long.
        """
        if not isinstance(text, str):
            raise UsageError(f"a text of type {type(text).__name__} was given: give one string")
        alone = {**choices, "batch_size": 1}
        return self.streamed(text, self.plan(group_size, mode, streaming=True, **alone))

    def stream_line(self, line: bytes, plan: Plan) -> Iterator[StreamedGroup]:
        """`stream` for a line of UTF-8. Raises `DataError` also if it is not."""
        text = decoded_line(line)
        if text is None:
            raise DataError(line_fault(line))
        return self.streamed(text, plan)

    def streamed(self, text: str, plan: Plan) -> Iterator[StreamedGroup]:
        """`stream` as planned (with `streaming`). Raises `DataError` for a text that is too
        long.
        """
        [tokens] = self.encode([text])
        if problem := self.problem(tokens):
            raise DataError(problem)
        return iter(()) if self.is_blank(text) else self._groups(tokens, plan)

    def _groups(self, tokens: list[int], plan: Plan) -> Iterator[StreamedGroup]:
        announce(self.engine)
        written = TextStream(self.vocabulary, plan.options.stop, self.shape)
        state, passes = begin_batch(self.engine, *source_batch([tokens], self.config), plan)
        [hypothesis] = state.hypotheses
        known = 0
        for hypotheses in passes:
            if not hypotheses:  # a pass that read a part of the prompt
                continue
            text = written.add(hypothesis.tokens[known:])
            known = len(hypothesis.tokens)
            if hypothesis.ending is not None:
                text += written.end()
            yield StreamedGroup(text, hypothesis.groups[-1], hypothesis.ending)


def tokens_of(
    texts: Sequence[str | Sequence[int]], encode: Callable[[Sequence[str]], list[list[int]]]
) -> list[list[int]]:
    """Return the tokens of texts; what is tokens already stays as it is."""
    encoded = iter(encode([text for text in texts if isinstance(text, str)]))
    return [next(encoded) if isinstance(text, str) else list(text) for text in texts]


def divided(pairs: Pairs) -> tuple[list[str], list[str | Sequence[int]]]:
    """Return the first texts and the second ones, which may be tokens.

    Raises `UsageError` for what is no list of such pairs.
    """
    if isinstance(pairs, str) or not isinstance(pairs, Iterable):
        raise UsageError(f"{pairs!r} was given, a list of pairs is expected: write [(text, text)]")
    both = list(pairs)
    for index, pair in enumerate(both):
        if isinstance(pair, str) or not isinstance(pair, Sequence) or len(pair) != 2:
            raise UsageError(f"pair {index} is no pair of texts: give (source, target) or the like")
        first, second = pair
        if not (isinstance(first, str) and isinstance(second, str | Iterable)):
            kinds = " and ".join(type(each).__name__ for each in pair)
            raise UsageError(
                f"pair {index} holds {kinds}: give two texts, or a text and a list of tokens"
            )
    return [first for first, _ in both], [second for _, second in both]


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
