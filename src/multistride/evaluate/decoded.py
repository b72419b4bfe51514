"""Measuring what a model decodes: translations and phonemes of a test set, continuations of
prompts.

Both are tasks whose inputs are tokens and whose outputs are hypotheses.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Literal, Protocol

from multistride.decode.hypothesis import Hypothesis
from multistride.decode.options import DecodeOptions
from multistride.decode.plan import Plan
from multistride.decode.score import score_continuations
from multistride.errors import DataError, UsageError
from multistride.evaluate.conditions import file_conditions, machine_conditions, model_conditions
from multistride.evaluate.measure import Run
from multistride.evaluate.positions import measure_places
from multistride.evaluate.request import Files
from multistride.evaluate.sentences import Passage, read_test_set, read_texts
from multistride.evaluate.speed import spread
from multistride.evaluate.ways import Way, settled
from multistride.metrics.quality import (
    check_tokenizer,
    identical_share,
    measure_quality,
    perplexity,
)
from multistride.metrics.repetition import (
    distinct,
    repeated,
    repetition_by_border,
    repetition_by_distance,
    repetition_rate,
    self_bleu,
)
from multistride.model.directory import is_export
from multistride.report.result import Example, Kind, Output, Place
from multistride.text_model import TextModel

logger = logging.getLogger(__name__)

Lot = tuple[DecodeOptions, Sequence[list[int]]]


class Shared(Protocol):
    """Decodes lots of token sequences, each with its options; lets others do it."""

    @property
    def workers(self) -> int:
        """Return how many there are."""

    def __call__(self, lots: Iterable[Lot]) -> Iterable[tuple[Lot, list[Hypothesis]]]:
        """Yield every lot with its hypotheses, in order."""


LOT = 4
"""Batches of one lot."""


@dataclass
class WrittenPassage(Hypothesis):
    """The translations of the sentences of one line, one after the other."""

    sentences: list[Hypothesis] = field(default_factory=list)

    @classmethod
    def of(cls, sentences: list[Hypothesis]) -> WrittenPassage:
        """Return the hypotheses of sentences as one."""
        groups = [group for each in sentences for group in each.groups]
        limit = sum(each.limit for each in sentences)
        return cls(sentences[0].row, limit, groups, sentences[-1].ending, sentences=sentences)

    @property
    def tokens(self) -> list[int]:
        """All tokens but the EOS of each sentence."""
        return [token for each in self.sentences for token in each.tokens]


def _way(plan: Plan) -> Way:
    """Return a way of decoding, with the group beam that the model may have chosen."""
    return Way(plan.options.model_copy(update={"group_beam": plan.group_beam}))


def _sentences(tokens: list[int]) -> list[list[int]]:
    return tokens.sentences if isinstance(tokens, Passage) else [tokens]


class _Decoded:
    """The parts that translations and continuations share."""

    task = None
    shared: Shared | None = None
    """Where inputs are decoded; None: here. Single ones are always decoded here, to be timed."""

    def __init__(
        self, directory: Path, writer: TextModel, ways: Sequence[DecodeOptions], files: Files
    ) -> None:
        if is_export(directory):
            raise UsageError(
                f"{directory} is an int8 export, which holds no float32 weights to measure: "
                "give the model directory it was made from, with --engine int8"
            )
        self._directory, self._writer, self._files = directory, writer, files
        self.ways = [_way(writer.plan(**way.given())) for way in settled(ways)]
        self.inputs: Sequence[list[int]] = []

    def share(self, shared: Shared | None) -> None:
        """Let others decode; they open the model now, so that no row's time holds that."""
        self.shared = shared
        if shared is not None and self.inputs:
            for _ in shared([(self.ways[0].options, self.inputs[:1])] * shared.workers):
                pass

    def write(self, way: Way, inputs: Sequence[list[int]]) -> list[Hypothesis]:
        """Decode token sequences; the n-th hypothesis belongs to the n-th."""
        if self.shared is not None and len(inputs) > 1:
            size = LOT * way.options.batch_size
            lots = [
                (way.options, inputs[first : first + size]) for first in range(0, len(inputs), size)
            ]
            return [each for _, written in self.shared(lots) for each in written]
        plan = self._writer.planned(way.options)
        if not any(isinstance(tokens, Passage) for tokens in inputs):
            return self._writer.decoded(inputs, plan)
        parts = [_sentences(tokens) for tokens in inputs]
        written = iter(self._writer.decoded([part for each in parts for part in each], plan))
        return [WrittenPassage.of(list(islice(written, len(each)))) for each in parts]

    def greedy(self) -> Way:
        """Return greedy K=1, which all rows are compared with."""
        options = self.ways[0].options
        shared = options.model_dump(include={"batch_size", "max_tokens"})
        return Way(DecodeOptions.made(**shared))

    def _common(self, run: Run[Hypothesis], greedy: Run[Hypothesis] | None) -> dict[str, Any]:
        """Return the figures that need the tokens alone."""
        assert greedy is not None
        tokens = [hypothesis.tokens for hypothesis in run.outputs]
        written = sum(len(hypothesis.log_probabilities) for hypothesis in run.outputs)
        steps = sum(hypothesis.steps for hypothesis in run.outputs)
        return {
            "engine": self._writer.engine.name,
            "tokens_per_step": written / steps,
            "tokens_per_second": written / run.seconds,
            "repetition_rate": repetition_rate(tokens),
            "identical_to_k1": identical_share(
                tokens, [hypothesis.tokens for hypothesis in greedy.outputs]
            ),
        }

    def _texts(self, hypotheses: Sequence[Hypothesis]) -> list[str]:
        parts = [
            each.sentences if isinstance(each, WrittenPassage) else [each] for each in hypotheses
        ]
        tokens = [part.tokens for each in parts for part in each]
        written = iter(self._writer.vocabulary.decode_all(tokens))
        return [" ".join(islice(written, len(each))) for each in parts]

    def _output(self, run: Run[Hypothesis], index: int) -> Output:
        vocabulary, hypothesis = self._writer.vocabulary, run.outputs[index]
        return Output(
            group_size=run.way.options.group_size,
            mode=run.way.options.mode,
            text=self._texts([hypothesis])[0],
            groups=tuple(tuple(vocabulary.pieces(group.tokens)) for group in hypothesis.groups),
        )


class Pairs(_Decoded):
    """Translations of a test set, or phonemes of words, against references line by line.

    Raises `DataError` for files that cannot be read or do not align, `UsageError` for an export,
    for a tokenizer that sacreBLEU does not have, and for ways the checkpoint was not trained for.
    """

    unit = "sentence"

    def __init__(
        self,
        directory: Path,
        translator: TextModel,
        ways: Sequence[DecodeOptions],
        files: Files,
        kind: Literal["translation", "phonemes"] = "translation",
        tokenize: str = "13a",
    ) -> None:
        check_tokenizer(tokenize)
        super().__init__(directory, translator, ways, files)
        self.kind: Kind = kind
        self._tokenize = tokenize
        assert files.reference is not None
        self._by_sentence = files.sentences
        self._set = read_test_set(
            translator, files.source, files.reference, files.limit, files.sentences
        )
        self.inputs = self._set.decodable()

    def figures(self, run: Run[Hypothesis], greedy: Run[Hypothesis] | None) -> dict[str, Any]:
        """Return quality, steps and repetition of one way."""
        texts = [""] * len(self._set.sources)
        for index, text in zip(self._set.places, self._texts(run.outputs), strict=True):
            texts[index] = text
        quality = measure_quality(texts, self._set.references, self._tokenize)
        borders, inside = repetition_by_border(
            [[group.tokens for group in each.groups] for each in run.outputs]
        )
        steps = sum(hypothesis.steps for hypothesis in run.outputs)
        return {
            **self._common(run, greedy),
            **asdict(quality),
            "steps_per_sentence": steps / len(run.outputs),
            "repetition_at_borders": borders,
            "repetition_inside": inside,
        }

    def conditions(self, runs: Sequence[Run[Hypothesis]], timed: int) -> dict[str, Any]:
        """Return the model, the files, how was decoded, and the machine."""
        options = self.ways[0].options
        return {
            **model_conditions(self._directory, self._writer.engine),
            **file_conditions(source=self._files.source, reference=self._files.reference),
            "sentences": len(self._set.sources),
            "not_translated": len(self._set.sources) - len(self._set.places),
            "decoding": "; ".join(dict.fromkeys(described(way.options) for way in self.ways)),
            **asked(self.ways),
            **({} if self._files.limit is None else {"limit": self._files.limit}),
            **({"split_sentences": True} if self._by_sentence else {}),
            "batch_size": options.batch_size,
            "latency_sentences": timed,
            "latency_batch_size": 1,
            **machine_conditions(self._writer.engine),
            **({"ray_workers": self.shared.workers} if self.shared is not None else {}),
        }

    def examples(self, runs: Sequence[Run[Hypothesis]]) -> list[Example]:
        """Return test lines, spread over the set, with what every way wrote step by step."""
        test = self._set
        return [
            Example(
                source=test.sources[test.places[index]],
                reference=test.references[test.places[index]],
                outputs=tuple(self._output(run, index) for run in runs),
            )
            for index in spread(len(test.places), self._files.examples)
        ]

    def places(self) -> list[Place]:
        """Return what each place of a group is worth, on pairs whose references fit the model.

        Nothing where sentences are translated alone: references are of whole lines.
        """
        if self._by_sentence:
            return []
        translator = self._writer
        references = translator.vocabulary.encode_target(
            [self._set.references[index] for index in self._set.places]
        )
        fitting = [
            (source, reference)
            for source, reference in zip(self.inputs, references, strict=True)
            if not translator.problem(reference)
        ]
        sizes = list(dict.fromkeys(way.options.group_size for way in self.ways))
        return measure_places(translator.engine.model, fitting, sizes) if fitting else []


def asked(ways: Sequence[Way]) -> dict[str, Any]:
    """Return the options beside group size, mode and beam that any way was given."""
    names = ("threshold", "policy", "layout", "drafts")
    given = {
        name: value
        for way in ways
        for name in names
        if (value := getattr(way.options, name)) is not None
    }
    beams = {way.options.group_beam for way in ways} - {None, 1}
    return {**given, **({"group_beam": beams.pop()} if len(beams) == 1 else {})}


def described(options: DecodeOptions) -> str:
    """Return how outputs are searched for, in words.

    A beam search may make more network calls than its best output has steps.
    """
    if options.mode == "exact":
        return "greedy, drafts checked against K=1 of the same weights"
    if options.mode == "adaptive":
        policy = f", policy {options.policy}" if options.policy else ""
        return f"greedy, tokens kept while together at least {options.sure_from} probable{policy}"
    if options.policy == "phase":
        return (
            f"greedy, groups twice as large after one at least {options.sure_from} probable, "
            "else half"
        )
    if (options.group_beam or 1) > 1:
        return f"greedy, the most probable of {options.group_beam} groups kept while one is picked"
    if options.beam == 1:
        return "greedy"
    return (
        f"beam search, length penalty {options.length_penalty}; "
        "steps are those of the chosen output"
    )


class Prompts(_Decoded):
    """Continuations of prompts by a causal model; references give the perplexity.

    Raises `DataError` for files that cannot be read or do not align and for prompts that cannot be
    continued, `UsageError` for an export and for ways the checkpoint was not trained for.
    """

    unit = "text"
    kind: Kind = "generation"

    def __init__(
        self,
        directory: Path,
        generator: TextModel,
        ways: Sequence[DecodeOptions],
        files: Files,
        chat: bool = False,
    ) -> None:
        super().__init__(directory, generator, ways, files)
        self._chat = chat
        self._prompts, references = read_texts(files.source, files.reference, files.limit)
        self._references = references if files.reference is not None else None
        writer = generator.chatting() if chat else generator
        self.inputs = writer.encode(self._prompts)
        for line, tokens in enumerate(self.inputs, start=1):
            if problem := generator.problem(tokens):
                raise DataError(f"{files.source}: line {line}: {problem}")
        self._perplexities: dict[int, float | None] = {}

    def figures(self, run: Run[Hypothesis], greedy: Run[Hypothesis] | None) -> dict[str, Any]:
        """Return perplexity, steps, variety and repetition of one way."""
        tokens = [hypothesis.tokens for hypothesis in run.outputs]
        written = sum(len(hypothesis.log_probabilities) for hypothesis in run.outputs)
        steps = sum(hypothesis.steps for hypothesis in run.outputs)
        return {
            **({"mode": "greedy"} if run.way.options.group_size == 1 else {}),
            **self._common(run, greedy),
            "perplexity": self._perplexity(run.way.options),
            "steps_per_text": steps / len(tokens),
            "tokens_per_text": written / len(tokens),
            "repeated_4_grams": repeated(tokens, 4),
            **{f"distinct_{length}": distinct(tokens, length) for length in (1, 2, 3)},
            "repetition_by_distance": repetition_by_distance(tokens),
            "self_bleu": self_bleu(self._texts(run.outputs)),
        }

    def conditions(self, runs: Sequence[Run[Hypothesis]], timed: int) -> dict[str, Any]:
        """Return the model, the files, how was decoded, and the machine."""
        ways = [way.options for way in self.ways]
        return {
            **model_conditions(self._directory, self._writer.engine),
            **file_conditions(source=self._files.source, reference=self._files.reference),
            "prompts": len(self._prompts),
            **({} if self._files.limit is None else {"limit": self._files.limit}),
            "threshold": next((way.threshold for way in ways if way.threshold is not None), None),
            "drafts": next((way.drafts for way in ways if way.drafts is not None), None),
            **asked(self.ways),
            "max_tokens": ways[0].max_tokens,
            "chat": self._chat,
            "batch_size": ways[0].batch_size,
            "latency_texts": timed,
            "latency_batch_size": 1,
            **machine_conditions(self._writer.engine),
            **({"ray_workers": self.shared.workers} if self.shared is not None else {}),
        }

    def examples(self, runs: Sequence[Run[Hypothesis]]) -> list[Example]:
        """Return the first prompts and what every way wrote after them."""
        count = min(self._files.examples, len(self._prompts))
        return [
            Example(
                source=self._prompts[index],
                outputs=tuple(self._output(run, index) for run in runs),
            )
            for index in range(count)
        ]

    def places(self) -> list[Place]:
        """Return nothing: prompts have no references to be predicted place by place."""
        return []

    def _perplexity(self, way: DecodeOptions) -> float | None:
        """Return the perplexity of the references, of what the context holds of them.

        Exact mode writes the text of K=1, and has its perplexity. None without references.
        """
        if self._references is None:
            return None
        group_size = 1 if way.mode == "exact" else way.group_size
        if group_size not in self._perplexities:
            texts = self._writer.vocabulary.encode_continuation(self._references)
            room = self._writer.config.max_positions
            pairs = [
                (prompt, text[: room - len(prompt)])
                for prompt, text in zip(self.inputs, texts, strict=True)
            ]
            scored = score_continuations(self._writer.engine.model, pairs, group_size)
            scores = [value for values in scored for value in values]
            self._perplexities[group_size] = perplexity(scores)
            if scores and self._perplexities[group_size] is None:
                logger.warning(
                    f"the references have no perplexity at K={group_size}: the model gives a token "
                    "of theirs no probability"
                )
        return self._perplexities[group_size]
