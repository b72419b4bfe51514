"""The base of translators and generators: texts in, texts out, group by group if wanted.

`Translator` and `Generator` say what a text is read as, and which texts need no decoding; here is
how texts, lines and streams go through a model. That n lines in become n lines out is the work of
`translation.LineModel.written`, which decodes what can be decoded and refills the holes.
"""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from operator import index
from pathlib import Path
from threading import Lock
from typing import Any, Literal, Self, TypeAlias

from multistride.data.detokenize import TextStream
from multistride.data.vocab import Vocabulary
from multistride.decode.batch import begin_batch, suited
from multistride.decode.choosing.auto import best, check_auto, costly_layout, explained, offers
from multistride.decode.choosing.strategy import Measured
from multistride.decode.corpus import decode_corpus, source_batch
from multistride.decode.ending import Ending
from multistride.decode.hypothesis import Group, Hypothesis
from multistride.decode.options import DecodeOptions, Mode
from multistride.decode.plan import Plan, plan
from multistride.engines.interface import Engine, announce, is_automatic
from multistride.engines.names import EngineName
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
        self._known = _Known()
        self._opened: tuple[str, EngineName] | None = None

    def __repr__(self) -> str:
        where = self.directory
        name = where.name if where and is_shipped(where) else where or "of no directory"
        return f"{type(self).__name__}({name}: {self.config.summary}, engine {self.engine.name})"

    def __reduce__(self) -> tuple[Any, ...]:
        """Copy and pickle a model as how it was opened: the copy reads the directory again.

        Raises `UsageError` for a model that is not of a directory alone.
        """
        if self._opened is None or self.directory is None:
            raise UsageError(
                "this model was not opened from a directory alone, so it cannot be copied or "
                "pickled: open it with multistride.load where it is needed"
            )
        return type(self).load, (self.directory.absolute(), *self._opened)

    @classmethod
    @abstractmethod
    def load(
        cls,
        directory: Path | str | None = None,
        device: str = "auto",
        engine: EngineName = "auto",
    ) -> TextModel:
        """Return the model in a directory."""

    @classmethod
    def of_directory(
        cls,
        opened: tuple[Engine[Any], Vocabulary],
        directory: Path,
        device: str,
        engine: EngineName,
    ) -> Self:
        """Return the model that `opened_model` opened in a directory, with how it was opened."""
        model = cls(*opened, directory)
        model._opened = device, engine
        return model

    def share(self, other: TextModel) -> None:
        """Share what another form of the same model knows and has planned."""
        self._known = other._known

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
        raise no_chat()

    @property
    def measured(self) -> Measured:
        """Calibration, phrases, a draft head, and statistics that decoding adds.

        Raises `DataError` if one of them is damaged, or the calibration belongs to other weights.
        """
        if self._known.measured is None:
            self._known.measured = Measured.read(self.directory, self.config)
        return self._known.measured

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
        return self._plan(group_size, mode, choices, streaming=streaming)

    def _plan(
        self,
        group_size: int | Literal["auto"],
        mode: Mode,
        choices: dict[str, Any],
        *,
        streaming: bool = False,
    ) -> Plan:
        """`plan` of `choices`, all of which are fields of `DecodeOptions`."""
        auto = group_size == "auto"
        size = max(self.config.group_sizes) if auto else group_size
        options = DecodeOptions.made(**choices | {"group_size": size, "mode": mode})
        return self.planned(options, streaming=streaming, auto=auto)

    def planned(
        self, options: DecodeOptions, *, streaming: bool = False, auto: bool = False
    ) -> Plan:
        """Return the plan of options; with `auto` their group size is the largest to choose from.

        Raises as `plan` does.
        """
        if streaming:
            check_streamed(options)
        chosen = self._known.plan(options, auto) or self._planned_anew(options, auto)
        if not auto or options.policy == "cost-model":  # it chooses anew in every step
            return chosen
        check_auto(options, self.config, self.measured)
        self.price(options)
        offered = offers(options, self.config, self.measured)
        logger.info(explained(offered))
        return chosen.of_size(best(offered).group_size)

    def _planned_anew(self, options: DecodeOptions, auto: bool) -> Plan:
        """Return the plan of options, which is remembered."""
        priced = options.policy == "cost-model"
        knowledge = self.measured if auto or priced or options.mode != "fast" else None
        if priced:
            options.checked(self.config)  # what is refused is refused before anything is timed
            self.price(options)
        made = suited(plan(options, self.config, self.vocabulary, knowledge), self.engine)
        if is_automatic(self.engine):
            made = made.thrifty()
        self._known.remember(made, auto)
        return made

    def price(self, options: DecodeOptions) -> None:
        """Know what steps cost: measured on this machine once, and kept between processes."""
        layout = costly_layout(options, self.config)
        if layout not in self.measured.costs:
            digest = weights_digest(self.directory) if self.directory else ""
            self.measured.costs[layout] = cached_costs(
                self.engine, self.engine.name, layout, options.batch_size, digest, logger.info
            )

    def decoded(self, rows: Sequence[Sequence[int]], plan: Plan) -> list[Hypothesis]:
        """Return what the model writes for the tokens of texts that can be decoded.

        Raises `UsageError` for a plan of another model.
        """
        self._check_plan(plan)
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
        check_text(text)
        alone = {**choices, "batch_size": 1}
        return self.streamed(text, self._plan(group_size, mode, alone, streaming=True))

    def stream_line(self, line: bytes, plan: Plan) -> Iterator[StreamedGroup]:
        """`stream` for a line of UTF-8. Raises `DataError` also if it is not."""
        text = decoded_line(line)
        if text is None:
            raise DataError(line_fault(line))
        return self.streamed(text, plan)

    def streamed(self, text: str, plan: Plan) -> Iterator[StreamedGroup]:
        """`stream` as planned. Raises `DataError` for a text that is too long, `UsageError` for
        beam search and for a plan of another model.
        """
        check_text(text)
        self._check_plan(plan)
        check_streamed(plan.options)
        [tokens] = self.encode([text])
        if problem := self.problem(tokens):
            raise DataError(problem)
        return iter(()) if self.is_blank(text) else self._groups(tokens, plan)

    def _check_plan(self, plan: Plan) -> None:
        """Raise `UsageError` for what is no plan, or the plan of a model with another
        configuration: its rules and limits belong to other tokens.
        """
        if not isinstance(plan, Plan):
            raise UsageError(
                f"a plan of type {type(plan).__name__} was given: give what the method plan returns"
            )
        if plan.config is not self.config and plan.config != self.config:
            raise UsageError(
                f"the plan is of another model ({plan.config.summary}), this one is "
                f"{self.config.summary}: call the method plan of this model"
            )

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


MOST_PLANS = 64
"""Plans that a model remembers: banned texts and prefixes may differ in every call."""


class _Known:
    """Facts known of a model beside its weights, and the plans it used last.

    Plans that differ only in seed and batch size share rules, policy and what they measured.
    """

    def __init__(self) -> None:
        self.measured: Measured | None = None
        self._plans: OrderedDict[tuple[DecodeOptions, frozenset[str], bool], Plan] = OrderedDict()
        self._lock = Lock()

    def plan(self, options: DecodeOptions, auto: bool) -> Plan | None:
        """Return the plan of options; None if it is not remembered."""
        key = self._key(options, auto)
        with self._lock:
            made = self._plans.get(key)
            if made is None:
                return None
            self._plans.move_to_end(key)
        return made if made.options == options else replace(made, options=options)

    def remember(self, made: Plan, auto: bool) -> None:
        """Remember a plan, and forget the one that was not used for longest if there are many."""
        with self._lock:
            self._plans[self._key(made.options, auto)] = made
            if len(self._plans) > MOST_PLANS:
                self._plans.popitem(last=False)

    @staticmethod
    def _key(options: DecodeOptions, auto: bool) -> tuple[DecodeOptions, frozenset[str], bool]:
        alike = options.model_copy(update={"seed": 0, "batch_size": 1})
        return alike, frozenset(options.model_fields_set), auto


def no_chat() -> UsageError:
    """Return the error of a model that cannot chat."""
    return UsageError(
        "this model has no chat template: generate without chat, or use a model made for chat"
    )


def check_streamed(options: DecodeOptions) -> None:
    """Raise `UsageError` for options whose text is known only at the end."""
    if options.beam > 1:
        raise UsageError(
            f"beam {options.beam} was asked for, and its best text is known only in the end: "
            "choose beam 1, or translate without streaming"
        )


def check_text(text: str) -> None:
    """Raise `UsageError` for what is no text."""
    if not isinstance(text, str):
        raise UsageError(f"a text of type {type(text).__name__} was given: give one string")


def scored_size(group_size: int) -> int:
    """Return a group size to score at. Raises `UsageError` for what is no whole number."""
    return DecodeOptions.made(group_size=group_size).group_size


def tokens_of(
    texts: Sequence[str | Sequence[int]],
    encode: Callable[[Sequence[str]], list[list[int]]],
    vocabulary_size: int,
) -> list[list[int]]:
    """Return the tokens of texts; what is tokens already stays as it is.

    Raises `UsageError` for what is no token of a vocabulary of this size.
    """
    encoded = iter(encode([text for text in texts if isinstance(text, str)]))
    return [
        next(encoded)
        if isinstance(text, str)
        else [_token(each, pair, vocabulary_size) for each in text]
        for pair, text in enumerate(texts)
    ]


def _token(value: Any, pair: int, vocabulary_size: int) -> int:
    """Return a token of a pair, of whatever integer type."""
    try:
        token = -1 if isinstance(value, bool) else index(value)
    except TypeError:
        token = -1
    if not 0 <= token < vocabulary_size:
        raise UsageError(
            f"pair {pair} holds the token {value!r}; this model has 0 to {vocabulary_size - 1}: "
            "give a text, or tokens of this model"
        )
    return token


def divided(pairs: Pairs) -> tuple[list[str], list[str | Sequence[int]]]:
    """Return the first texts and the second ones, which may be tokens.

    Raises `UsageError` for what is no list of such pairs.
    """
    if isinstance(pairs, str) or not isinstance(pairs, Iterable):
        raise UsageError(f"{pairs!r} was given, a list of pairs is expected: write [(text, text)]")
    both = list(pairs)
    for place, pair in enumerate(both):
        if isinstance(pair, str) or not isinstance(pair, Sequence) or len(pair) != 2:
            raise UsageError(f"pair {place} is no pair of texts: give (source, target) or the like")
        first, second = pair
        texts = isinstance(first, str) and isinstance(second, str | Iterable)
        if not texts or isinstance(second, bytes):
            kinds = " and ".join(type(each).__name__ for each in pair)
            raise UsageError(
                f"pair {place} holds {kinds}: give two texts, or a text and a list of tokens"
            )
    return [first for first, _ in both], [second for _, second in both]
