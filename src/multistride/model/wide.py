"""A wide path beside the pooled states: the classes of a document out of which words stand in it,
and how often.

A few thousand documents do not teach a Transformer what rare words mean; a linear model reads them
directly. Source: the wide and the deep part of Cheng et al. 2016 (arXiv 1606.07792, section 3),
which are one model. The features are words by TF-IDF (logarithmic counts times inverse document
frequency, of length one), put together from tokens.

Shapes: N tokens of all documents, one document after the other; L words in them; B documents, C
classes, W words that are known, V vocabulary.
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
"""The bytes of words, after ASCII capitals were made small: letters, digits and all that is not
ASCII."""

FACTOR = 0x9E3779B97F4A7C15
"""An odd number, about 2^64 divided by the golden ratio: the base in which bytes are digits of a
word's number."""

UNUSED = 2**63 - 1
"""The number of no word: what stands in the table of known words behind the last one."""

ALONE, BEGINS, CONTINUES = 0, 1, 2
"""What a token does: stand for itself; be the first of a word; go on with the word of the token
before, if any."""


class FoundWords(NamedTuple):
    """The numbers of words [L], and the document that each stands in [L], in rising order."""

    numbers: Int[Tensor, "L"]
    document: Int[Tensor, "L"]


class Bag(NamedTuple):
    """Each known word of each document once: place in the table, weight, and document, documents in
    rising order.
    """

    place: Int[Tensor, "P"]
    weight: Float[Tensor, "P"]
    document: Int[Tensor, "P"]


class Words(nn.Module):
    """Puts words together from tokens, as numbers of 64 bits, whatever pieces the tokenizer cut
    them into.

    A word is a run of tokens of `LETTERS`, the first of which may bring blanks before it; capitals
    count as small letters. Any other token stands for itself. The number of a word is that of its
    bytes, as digits in base `FACTOR`, cut to 64 bits: it does not depend on how the word was cut.
    Two words with one number are as good as impossible.
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
        """Note what every token of the vocabulary adds to a text."""
        digits, kinds = zip(*(_digits_and_kind(spelling) for spelling in spellings), strict=True)
        device = self.number.device
        self.number.copy_(torch.tensor([number_of(each) for each in digits], device=device))
        self.size.copy_(torch.tensor([len(each) for each in digits], device=device))
        self.kind.copy_(torch.tensor(kinds, device=device))

    def forward(self, tokens: Int[Tensor, "N"], document: Int[Tensor, "N"]) -> FoundWords:
        """The words of documents; `document` says to which each token belongs, in rising order."""
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
    """Logits of the classes, a sum over the known words of a document.

    Which words are known and how rare they are is counted on the training data, and stored with the
    weights; these are fitted before the rest of the model is trained (`multistride.train.wide`) and
    not trained with it.
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
        """Take these words, in rising order of their numbers, as those that are known; at most
        W.
        """
        self.known.fill_(UNUSED)[: len(numbers)] = numbers
        self.rarity.zero_()[: len(rarity)] = rarity

    @torch.no_grad()
    def take(self, weight: Float[Tensor, "W C"], bias: Float[Tensor, "C"]) -> None:
        """Take these weights."""
        self.weight.copy_(weight)
        self.bias.copy_(bias)

    def forward(
        self, tokens: Int[Tensor, "N"], document: Int[Tensor, "N"], documents: int
    ) -> Float[Tensor, "B C"]:
        """The logits of documents: all their tokens, and which of `documents` each belongs to, in
        rising order.
        """
        return self.scored(self.bag(tokens, document, documents), documents)

    def bag(self, tokens: Int[Tensor, "N"], document: Int[Tensor, "N"], documents: int) -> Bag:
        """The known words of documents with weights whose squares sum to one in each document that
        has any.
        """
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
        """The logits that bags make."""
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
    """The number of a spelling, by which words are known: bytes plus one as digits, the first the
    lowest.
    """
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
    """`FACTOR` to these powers, cut to 64 bits."""
    factor = FACTOR - 2**64
    table = torch.full(
        (int(exponents.max()) + 1,), factor, dtype=torch.int64, device=exponents.device
    )
    table[0] = 1
    return table.cumprod(0)[exponents]
