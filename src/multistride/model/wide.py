"""A wide path beside the pooled states: class logits from the words of a whole document.

A few thousand documents do not teach a Transformer what rare words mean; a linear model reads them
directly. Source: the wide and the deep part of Cheng et al. 2016 (arXiv 1606.07792, section 3),
which are one model. The features are words by TF-IDF (logarithmic counts times inverse document
frequency, normalised to length one), assembled from tokens.

Shapes: N tokens of all documents, one document after the other; L words in them; B documents, C
classes, W known words, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional

from multistride.model.config import ClassifierConfig

LETTERS = frozenset(b"abcdefghijklmnopqrstuvwxyz0123456789") | frozenset(range(128, 256))
"""The bytes of words, after lower-casing ASCII: letters, digits and everything outside ASCII."""

FACTOR = 0x9E3779B97F4A7C15
"""The base in which bytes are the digits of a word's number: odd, about 2^64 / golden ratio."""

UNUSED = 2**63 - 1
"""The number of no word: it fills the table of known words."""

ALONE, BEGINS, CONTINUES = 0, 1, 2
"""Kinds of tokens: a word by itself, the beginning of a word, or the continuation of one."""


class FoundWords(NamedTuple):
    """The numbers of words [L] and the document of each [L], in rising order of documents."""

    numbers: Int[Tensor, "L"]
    document: Int[Tensor, "L"]


class Bag(NamedTuple):
    """Each known word of each document once: index in the table, weight, and document.

    Documents are in rising order.
    """

    place: Int[Tensor, "P"]
    weight: Float[Tensor, "P"]
    document: Int[Tensor, "P"]


class Words(nn.Module):
    """Assembles words from tokens, as 64-bit numbers that do not depend on the tokenizer's pieces.

    A word is a run of tokens of `LETTERS`, the first of which may begin with blanks; upper case
    counts as lower case. Any other token stands for itself. The number of a word is that of its
    bytes as digits in base `FACTOR`, modulo 2^64. Collisions are negligible.
    """

    def __init__(self, vocabulary_size: int) -> None:
        super().__init__()
        self.register_buffer("number", torch.zeros(vocabulary_size, dtype=torch.int64))
        self.register_buffer("size", torch.zeros(vocabulary_size, dtype=torch.int64))
        self.register_buffer("kind", torch.zeros(vocabulary_size, dtype=torch.int64))
        self.number: Tensor
        self.size: Tensor
        self.kind: Tensor

    def learn(self, spellings: Sequence[bytes]) -> None:
        """Store the contribution of every token of the vocabulary, given its bytes."""
        digits, kinds = zip(*(_digits_and_kind(spelling) for spelling in spellings), strict=True)
        device = self.number.device
        self.number.copy_(torch.tensor([number_of(each) for each in digits], device=device))
        self.size.copy_(torch.tensor([len(each) for each in digits], device=device))
        self.kind.copy_(torch.tensor(kinds, device=device))

    def forward(self, tokens: Int[Tensor, "N"], document: Int[Tensor, "N"]) -> FoundWords:
        """Return the words of documents; `document` is that of each token, in rising order."""
        if not len(tokens):
            return FoundWords(tokens.long(), document)
        kind, size = self.kind[tokens], self.size[tokens]
        goes_on = (kind[1:] == CONTINUES) & (kind[:-1] != ALONE) & (document[1:] == document[:-1])
        begins = functional.pad(~goes_on, (1, 0), value=True)
        word = begins.cumsum(0) - 1
        before = size.cumsum(0) - size
        before = before - before[begins][word]
        number = self.number[tokens] * _powers(before)
        return FoundWords(
            number.new_zeros(int(word[-1]) + 1).index_add(0, word, number), document[begins]
        )


class WidePath(nn.Module):
    """Class logits as a sum over the known words of a document.

    The known words and their rarity are counted on the training data and stored with the weights;
    these are fitted before the rest of the model is trained (`multistride.train.wide`) and frozen
    then.
    """

    def __init__(self, config: ClassifierConfig, vocabulary_size: int) -> None:
        super().__init__()
        assert config.wide is not None
        self.words = Words(vocabulary_size)
        self.register_buffer("known", torch.full((config.wide.words,), UNUSED))
        self.register_buffer("rarity", torch.zeros(config.wide.words))
        self.known: Tensor
        self.rarity: Tensor
        self.weight = nn.Parameter(
            torch.zeros(config.wide.words, len(config.classes)), requires_grad=False
        )
        self.bias = nn.Parameter(torch.zeros(len(config.classes)), requires_grad=False)

    def know(self, numbers: Int[Tensor, "L"], rarity: Float[Tensor, "L"]) -> None:
        """Set the known words, at most W, in rising order of their numbers."""
        self.known.fill_(UNUSED)[: len(numbers)] = numbers
        self.rarity.zero_()[: len(rarity)] = rarity

    @torch.no_grad()
    def take(self, weight: Float[Tensor, "W C"], bias: Float[Tensor, "C"]) -> None:
        """Set the weights."""
        self.weight.copy_(weight)
        self.bias.copy_(bias)

    def forward(
        self, tokens: Int[Tensor, "N"], document: Int[Tensor, "N"], documents: int
    ) -> Float[Tensor, "B C"]:
        """Return the logits of documents from all their tokens; `document` is that of each token.

        Documents are in rising order.
        """
        return self.scored(self.bag(tokens, document, documents), documents)

    def bag(self, tokens: Int[Tensor, "N"], document: Int[Tensor, "N"], documents: int) -> Bag:
        """Return the known words of documents, with weights of length one in each document."""
        found = self.words(tokens, document)
        place = torch.searchsorted(self.known, found.numbers).clamp(max=len(self.known) - 1)
        seen: Bool[Tensor, "L"] = self.known[place] == found.numbers
        both, counts = torch.unique(
            found.document[seen] * len(self.known) + place[seen], return_counts=True
        )
        document, place = both // len(self.known), both % len(self.known)
        weight = (1 + counts.float().log()) * self.rarity[place]
        squares = weight.new_zeros(documents).index_add(0, document, weight.square())
        return Bag(place, weight / squares.sqrt()[document], document)

    def scored(self, bag: Bag, documents: int) -> Float[Tensor, "B C"]:
        """Return the logits of bags."""
        numbers = torch.arange(documents, device=bag.document.device)
        begins = torch.searchsorted(bag.document, numbers)
        summed = functional.embedding_bag(
            bag.place,
            self.weight,
            begins,
            mode="sum",
            per_sample_weights=bag.weight.to(self.weight.dtype),
        )
        return summed.float() + self.bias.float()


def number_of(digits: bytes) -> int:
    """Return the 64-bit number of a spelling: bytes plus one as digits, the lowest first."""
    number = (
        sum((digit + 1) * pow(FACTOR, place, 2**64) for place, digit in enumerate(digits)) % 2**64
    )
    return number - 2**64 if number >= 2**63 else number


def _digits_and_kind(spelling: bytes) -> tuple[bytes, int]:
    small = spelling.lower()
    core = small.lstrip(b" ")
    if not core or not LETTERS.issuperset(core):
        return small, ALONE
    return core, CONTINUES if core == small else BEGINS


def _powers(exponents: Int[Tensor, "N"]) -> Int[Tensor, "N"]:
    """Return powers of `FACTOR` modulo 2^64."""
    factor = FACTOR - 2**64
    table = torch.full(
        (int(exponents.max()) + 1,), factor, dtype=torch.int64, device=exponents.device
    )
    table[0] = 1
    return table.cumprod(0)[exponents]
