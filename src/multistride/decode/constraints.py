"""Rules about what may be written, made into closures once.

Constraints take effect where tokens are picked, from left to right through a group: what may stand
at a place depends on the tokens before it, and those of its own group are among them. They choose,
and do not change what is reported: log-probabilities stay the model's own, as `score` gives them.

EOS is barred by the least length alone. Where nothing else may be written the sentence ends,
whatever its length. Shapes: R rows still running, K slots of the group, C slots walked, V
vocabulary, P prefix.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from multistride.data.vocab import Vocabulary
from multistride.decode.ending import StopRule, goes_on
from multistride.decode.options import DecodeOptions
from multistride.decode.spans import Allowing
from multistride.decode.walk import Permitted
from multistride.decode.wording import Barring, banned_texts, no_repeat, stop_texts
from multistride.errors import UsageError
from multistride.model.config import TransformerConfig


@dataclass(frozen=True)
class Constraints:
    """`prefix`: tokens every sentence begins with; `stopped`: what ends one; `permitted`: what may
    come next.

    `permitted` is None where everything may. `allowing` makes of a source (its tokens without EOS;
    of a causal model the prompt) a rule of its own, such as `spans` of a text: nothing else may be
    written for it.
    """

    prefix: tuple[int, ...] = ()
    stopped: StopRule = goes_on
    permitted: Permitted | None = None
    allowing: Callable[[Sequence[int]], Allowing] | None = None

    def in_batch(
        self, sources: Sequence[Sequence[int]], config: TransformerConfig
    ) -> Permitted | None:
        """Return the rule for a batch of these sources, which end in EOS if the model has an
        encoder.
        """
        if self.allowing is None:
            return self.permitted
        ends = 1 if config.encoder_layers else 0
        rules = [self.allowing(source[: len(source) - ends]) for source in sources]
        return _only(rules, self.permitted, config.end_token)


def constraints_of(
    options: DecodeOptions, config: TransformerConfig, vocabulary: Vocabulary | None = None
) -> Constraints:
    """The constraints that `options` ask for; those about text need the vocabulary.

    Raises `UsageError` for a prefix that other options rule out, or for text that the vocabulary
    cannot write.
    """
    bars: list[Barring] = []
    if options.banned_tokens:
        bars.append(lambda written: options.banned_tokens)
    if options.no_repeat_ngram:
        bars.append(no_repeat(options.no_repeat_ngram))
    first = () if config.first_token is None else (config.first_token,)
    if not (options.prefix or options.banned or options.stop):
        return Constraints(first, permitted=_permission(bars, options.min_tokens, config.ends))
    assert vocabulary is not None, "rules about text need the vocabulary"
    if options.banned:
        bars.append(banned_texts(options.banned, vocabulary))
    permitted = _permission(bars, options.min_tokens, config.ends)
    prefix = _prefix(options, config, vocabulary) if options.prefix else first
    if not options.stop:
        return Constraints(prefix, permitted=permitted)
    return Constraints(prefix, stop_texts(options.stop, vocabulary), permitted)


def check_prompted(constraints: Constraints) -> None:
    """Raise `UsageError` for a prefix where every text has a beginning of its own, the prompt of a
    causal model.
    """
    if constraints.prefix:
        raise UsageError(
            "a prefix was given, and a causal model goes on from its prompt: put it at the "
            "prompt's end"
        )


def _permission(
    bars: Sequence[Barring], min_tokens: int, ends: tuple[int, ...]
) -> Permitted | None:
    if not bars and not min_tokens:
        return None

    def permitted(
        values: Float[Tensor, "R V"], histories: Sequence[Sequence[int]], sentences: Sequence[int]
    ) -> Float[Tensor, "R V"]:
        last_resort, values = values[:, ends[0]], values.clone()
        for row, written in enumerate(histories):
            barred = {token for bar in bars for token in bar(written)} - set(ends)
            if len(written) < min_tokens:
                barred.update(ends)
            values[row, list(barred)] = float("-inf")
        stuck = values.isneginf().all(dim=1)
        values[stuck, ends[0]] = last_resort[stuck]
        return values

    return permitted


def _only(rules: Sequence[Allowing], permitted: Permitted | None, end_token: int) -> Permitted:
    """Return the rule that allows what `permitted` (None: everything) and each row's own rule
    allow.
    """

    def narrowed(
        values: Float[Tensor, "R V"], histories: Sequence[Sequence[int]], sentences: Sequence[int]
    ) -> Float[Tensor, "R V"]:
        left = values if permitted is None else permitted(values, histories, sentences)
        kept = torch.full_like(values, float("-inf"))
        for row, (written, sentence) in enumerate(zip(histories, sentences, strict=True)):
            tokens = list(rules[sentence](written))
            kept[row, tokens] = left[row, tokens]
        stuck = kept.isneginf().all(dim=1)
        kept[stuck, end_token] = values[stuck, end_token]
        return kept

    return narrowed


def _prefix(
    options: DecodeOptions, config: TransformerConfig, vocabulary: Vocabulary
) -> tuple[int, ...]:
    """The tokens of the prefix, once nothing speaks against them."""
    [tokens] = vocabulary.encode_target([options.prefix])
    limit = options.max_tokens or config.max_positions
    if len(tokens) >= limit:
        raise UsageError(
            f"the prefix has {len(tokens)} tokens and a translation at most {limit}: "
            "give a shorter prefix, or a larger max_tokens where the model allows it"
        )
    if vocabulary.unknown in tokens:
        raise UsageError(
            f"the prefix {options.prefix!r} has a word that this vocabulary lacks: choose other "
            "words"
        )
    if barred := [token for token in tokens if token in options.banned_tokens]:
        raise UsageError(
            f"the prefix {options.prefix!r} has the banned token {barred[0]} in it: drop one of "
            "them"
        )
    for name, texts in (("a banned text", options.banned), ("a stop text", options.stop)):
        for text in texts:
            if text in options.prefix:
                raise UsageError(
                    f"the prefix {options.prefix!r} has {text!r} in it, {name}: drop one of them"
                )
    if length := options.no_repeat_ngram:
        grams = [tuple(tokens[place : place + length]) for place in range(len(tokens) - length + 1)]
        if len(set(grams)) < len(grams):
            raise UsageError(
                f"the prefix {options.prefix!r} repeats {length} tokens, which no_repeat_ngram "
                f"{length} forbids: drop one of them"
            )
    return tuple(tokens)
