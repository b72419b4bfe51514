"""Decoding at K=1 by CTranslate2 (https://opennmt.net/CTranslate2), on the CPU.

It is no `StepModel`: CTranslate2 owns its loop and writes one token a step. At K=1 the reach
embedding is zero, so a checkpoint trained for many K converts as well as an autoregressive one.
Nothing is downloaded, and nothing stays on the disk: the converted weights pass through a temporary
directory that is gone before decoding begins.

Tokens go in and out as their ids, written as strings.
"""

from __future__ import annotations

import tempfile
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from multistride.baselines.expressible import check_expressible
from multistride.decode.options import DecodeOptions
from multistride.errors import MissingExtraError, UsageError
from multistride.model.config import TransformerConfig
from multistride.model.layers import PositionEmbedding
from multistride.model.transformer import Transformer

try:
    import ctranslate2
    from ctranslate2.specs import common_spec, transformer_spec
except ImportError:  # CTranslate2Engine says so
    ctranslate2 = None

_NORM_EPSILON = 1e-5
"""PyTorch's default for `nn.LayerNorm`, which all of ours have."""

_ONLY_IN_GROUPS = ("reach.", "markov.")
"""Weights that add nothing at K=1."""

_OF_MARIAN = ("output_bias", "never_written", "activation silu")
"""What converted Marian models have beyond ours, and CTranslate2 as well."""

_NEVER = -1e9
"""The bias of tokens that are never picked."""

_BATCHES_AHEAD = 2
"""Batches waiting for each worker, so that none is idle and Ctrl-C does not wait for long."""


class Written(NamedTuple):
    """One sentence: its tokens without EOS, whether EOS came before the limit, its score.

    `score` is the sum of the natural log-probabilities, EOS included, over their number to the
    power of the length penalty.
    """

    tokens: list[int]
    ended: bool
    score: float


class CTranslate2Engine:
    """A model converted and loaded. Each of the `workers` decodes one batch at a time, on `threads`
    threads.
    """

    def __init__(
        self,
        model: Transformer | TransformerConfig,
        compute_type: str = "int8",
        workers: int = 1,
        threads: int = 1,
        converted: Path | None = None,
    ) -> None:
        """Convert `model`, or open what `save_ctranslate2` wrote to `converted`.

        In the second case the configuration is enough of the model. Raises `MissingExtraError`
        without CTranslate2 and `UsageError` for a model it cannot express.
        """
        check_installed()
        self.config = model.config if isinstance(model, Transformer) else model
        self.compute_type = compute_type
        self.workers = workers
        with tempfile.TemporaryDirectory(prefix="multistride-") as place:
            if converted is None:
                assert isinstance(model, Transformer)
                save_ctranslate2(model, Path(place))
            self._translator: Any = ctranslate2.Translator(
                str(converted or place),
                device="cpu",
                compute_type=compute_type,
                inter_threads=workers,
                intra_threads=threads,
            )

    def decode(
        self,
        sources: Sequence[Sequence[int]],
        options: DecodeOptions,
        beam: int = 1,
        length_penalty: float = 1.0,
        progress: Callable[[int], None] = lambda count: None,
    ) -> list[Written]:
        """Decode token sequences (no EOS); the n-th result belongs to the n-th source.

        Only sentences of equal length share a batch, so nothing is padded and each has the limit
        that `options.limit` gives it. `progress` is called after each batch with the number of
        sentences it held. Raises `UsageError` for other constraints.
        """
        if options.constrained:
            raise UsageError(
                "this engine knows no constraints but the limit: choose the engine eager, or drop "
                "them"
            )
        results: dict[int, Written] = {}
        waiting: deque[tuple[list[int], list[Any]]] = deque()

        def collect() -> None:
            rows, answers = waiting.popleft()
            results.update(zip(rows, map(self._written, answers), strict=True))
            progress(len(rows))

        for rows in _equally_long(sources, options.batch_size):
            limit = options.limit(len(sources[rows[0]]) + 1, self.config)
            batch = [[*map(str, sources[row]), str(self.config.end_token)] for row in rows]
            waiting.append((rows, self._begin(batch, limit, beam, length_penalty)))
            if len(waiting) > _BATCHES_AHEAD * self.workers:
                collect()
        while waiting:
            collect()
        return [results[index] for index in range(len(sources))]

    def greedy(self, sources: Sequence[Sequence[int]], limit: int) -> list[list[int]]:
        """Decode one batch of sources (no EOS), at most `limit` tokens each, as fast as it can.

        Nothing is asked that costs time: no scores, no symbols forbidden (a trained model does not
        write them), no division of the batch. EOS is among the tokens returned where it was
        written.
        """
        answers = self._translator.translate_batch(
            [[*map(str, source), str(self.config.end_token)] for source in sources],
            beam_size=1,
            max_input_length=0,
            min_decoding_length=0,
            max_decoding_length=limit,
            return_end_token=True,
        )
        return [[int(piece) for piece in answer.hypotheses[0]] for answer in answers]

    def _begin(
        self, batch: list[list[str]], limit: int, beam: int, length_penalty: float
    ) -> list[Any]:
        config = self.config
        never = [[str(token)] for token in config.unpicked]
        answers: list[Any] = self._translator.translate_batch(
            batch,
            asynchronous=True,
            beam_size=beam,
            length_penalty=length_penalty,
            suppress_sequences=never,
            max_input_length=0,
            min_decoding_length=0,  # the default forbids EOS as the first token
            max_decoding_length=limit,
            return_end_token=True,
            return_scores=True,
        )
        return answers

    def _written(self, answer: Any) -> Written:
        result = answer.result()
        tokens = [int(piece) for piece in result.hypotheses[0]]
        ended = tokens[-1:] == [self.config.end_token]
        return Written(tokens[:-1] if ended else tokens, ended, float(result.scores[0]))


def check_installed() -> None:
    """Raise `MissingExtraError` unless CTranslate2 can be imported."""
    if ctranslate2 is None:
        raise MissingExtraError(
            "CTranslate2 is needed and is not installed: pip install 'multistride[bench]'"
        )


def save_ctranslate2(model: Transformer, place: Path, precision: str | None = None) -> None:
    """Write `model` into the directory `place`, in float32 or another `precision` of CTranslate2.

    Whoever loads it may choose another precision. Raises `MissingExtraError` without CTranslate2
    and `UsageError` for a model it cannot express.
    """
    check_installed()
    _specification(model, precision).save(str(place))


def installed_version() -> str | None:
    """Return the version of CTranslate2; None if it is not installed."""
    return None if ctranslate2 is None else str(ctranslate2.__version__)


def _equally_long(sources: Sequence[Sequence[int]], batch_size: int) -> Iterator[list[int]]:
    """Yield batches of indices of equally long sources, the longest first."""
    places: defaultdict[int, list[int]] = defaultdict(list)
    for place, source in enumerate(sources):
        places[len(source)].append(place)
    for length in sorted(places, reverse=True):
        alike = places[length]
        for first in range(0, len(alike), batch_size):
            yield alike[first : first + batch_size]


class _Weights:
    """The tensors of a model, handed out by name; what nobody asked for is known at the end."""

    def __init__(self, model: Transformer) -> None:
        self._tensors = {
            name: tensor.detach().float().cpu() for name, tensor in model.state_dict().items()
        }
        self._taken: set[str] = set()

    def take(self, name: str) -> NDArray[np.float32]:
        """Return one tensor."""
        self._taken.add(name)
        array: NDArray[np.float32] = self._tensors[name].contiguous().numpy()
        return array

    def linear(self, specification: Any, name: str) -> None:
        """Fill the specification of a linear layer with bias."""
        specification.weight, specification.bias = (
            self.take(f"{name}.weight"),
            self.take(f"{name}.bias"),
        )

    def norm(self, specification: Any, name: str) -> None:
        """Fill the specification of a layer normalisation."""
        specification.gamma, specification.beta = (
            self.take(f"{name}.weight"),
            self.take(f"{name}.bias"),
        )

    def left(self) -> list[str]:
        """Return the names of tensors that nobody took and that matter at K=1."""
        names = self._tensors.keys() - self._taken
        return sorted(name for name in names if not name.startswith(_ONLY_IN_GROUPS))


def _specification(model: Transformer, precision: str | None) -> Any:
    """Return the model as CTranslate2 has it. Raises `UsageError` if it has no place for it."""
    config, weights = model.config, _Weights(model)
    check_expressible(config, "CTranslate2", encoder=True, also=_OF_MARIAN)
    kinds = common_spec.Activation
    activation = {"relu": kinds.RELU, "gelu": kinds.GELU, "silu": kinds.SWISH}[config.activation]
    specification = transformer_spec.TransformerSpec.from_config(
        (config.encoder_layers, config.decoder_layers),
        config.heads,
        pre_norm=config.norm == "pre",
        activation=activation,
    )
    _fill_embeddings(specification, config, weights)
    for side, stack in (("encoder", specification.encoder), ("decoder", specification.decoder)):
        assert isinstance(model.position, PositionEmbedding)
        positions = "position.table" if config.positions == "learned" else None
        stack.position_encodings.encodings = (
            weights.take(positions) if positions else model.position.table.numpy()
        )
        if config.norm == "pre":
            weights.norm(stack.layer_norm, f"{side}_norm")
        for number, layer in enumerate(stack.layer):
            _fill_layer(layer, f"{side}.{number}", weights)
    if left := weights.left():
        raise UsageError(
            f"CTranslate2 has no place for {left[0]} of this model: "
            "use the model as it is, with --engine eager"
        )
    _name_tokens(specification, config)
    specification.validate()
    specification.optimize(precision)
    return specification


def _fill_embeddings(specification: Any, config: TransformerConfig, weights: _Weights) -> None:
    target = weights.take("target_embedding.weight")
    tied = config.tie_embeddings
    specification.encoder.embeddings[0].weight = (
        target if tied else weights.take("source_embedding.weight")
    )
    specification.decoder.embeddings.weight = target
    specification.decoder.projection.weight = target if tied else weights.take("output.weight")
    if config.output_bias:
        bias = weights.take("output_bias").copy()
        bias[list(config.unpicked)] = _NEVER
        specification.decoder.projection.bias = bias


def _fill_layer(layer: Any, name: str, weights: _Weights) -> None:
    """Fill a layer; both programs join queries, keys and values, in this order, in one matrix."""
    attention = layer.self_attention
    weights.norm(attention.layer_norm, f"{name}.around_attention.norm")
    weights.linear(attention.linear[0], f"{name}.attention.input")
    weights.linear(attention.linear[1], f"{name}.attention.output")
    if hasattr(layer, "attention"):
        weights.norm(layer.attention.layer_norm, f"{name}.around_cross.norm")
        for place, part in enumerate(("query", "key_value", "output")):
            weights.linear(layer.attention.linear[place], f"{name}.cross.{part}")
    weights.norm(layer.ffn.layer_norm, f"{name}.around_feedforward.norm")
    weights.linear(layer.ffn.linear_0, f"{name}.feedforward.widen")
    weights.linear(layer.ffn.linear_1, f"{name}.feedforward.narrow")


def _name_tokens(specification: Any, config: TransformerConfig) -> None:
    pieces = [str(token) for token in range(config.vocabulary_size)]
    specification.register_source_vocabulary(pieces)
    specification.register_target_vocabulary(pieces)
    names = specification.config
    names.unk_token = str(config.pad_token)  # every id is a piece, so nothing is unknown
    names.bos_token = names.decoder_start_token = str(config.start_token)
    names.eos_token = str(config.end_token)
    names.layer_norm_epsilon = _NORM_EPSILON
