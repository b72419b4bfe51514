"""The wide path of a classifier: what it knows is counted, and its weights are fitted, before the
first update.

Both follow from the training documents alone. The fit is convex (logistic regression over the
classes), so nothing is drawn and nothing but its penalty chosen, and it takes a minute. The deep
path is then trained to add what the wide one misses. A fit is near certain of the documents it was
fitted to, and would leave nothing to learn. So in training the deep path stands beside logits of
fits to the other folds (stacked generalisation, Wolpert 1992,
https://doi.org/10.1016/S0893-6080(05)80023-1), in validation and use beside those of the fit to
all.

Shapes: N documents, C classes, W words that are known.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from multistride.data.labelled import LabelledDocuments
from multistride.data.vocab import Vocabulary
from multistride.model.classifier import PooledHead
from multistride.model.wide import Bag, WidePath

TOKENS_TOGETHER = 1_000_000
"""Tokens whose words are counted together, at least those of one document."""

FOLDS = 5
"""Parts of the training documents, each of which is scored by a fit to the others."""

ITERATIONS = 200
"""Steps of L-BFGS, at most."""

FLAT = 1e-5
"""Largest entry of the gradient of the mean loss at which the fit ends."""


class Fit(NamedTuple):
    """Number of known words, and out-of-fold logits of every training document [N, C]."""

    words: int
    held_out: Float[Tensor, "N C"]


def fit_wide(head: PooledHead, documents: LabelledDocuments, vocabulary: Vocabulary) -> Fit:
    """Count and fit the wide path of a head, in place.

    Raises `UsageError` for a vocabulary that does not say what a token spells.
    """
    wide, config = head.wide, head.config.wide
    assert wide is not None
    assert config is not None
    wide.words.learn(vocabulary.spellings)
    parts = list(_parts(documents, head.config.first_tokens))
    numbers, counts = document_counts(wide, parts)
    kept = np.flatnonzero(counts >= config.documents)
    kept = np.sort(kept[np.argsort(-counts[kept], kind="stable")][: config.words])
    wide.know(
        torch.from_numpy(numbers[kept]), torch.from_numpy(rarity(counts[kept], len(documents)))
    )
    bags = [wide.bag(tokens, document, len(documents)) for tokens, document in parts]
    bag = Bag(*(torch.cat(fields) for fields in zip(*bags, strict=True)))
    words, classes = wide.weight.shape
    regression = Regression(
        bag, torch.from_numpy(np.array(documents.labels)), words, classes, config.penalty
    )
    held_out = torch.zeros(len(documents), classes)
    fold = torch.arange(len(documents)) % FOLDS
    for number in range(FOLDS):
        wide.take(*regression.minimum(fold != number))
        held_out[fold == number] = wide.scored(bag, len(documents))[fold == number]
    wide.take(*regression.minimum(fold >= 0))
    return Fit(len(kept), held_out)


def rarity(counts: NDArray[np.int64], documents: int) -> NDArray[np.float32]:
    """The inverse document frequency of words that `counts` of so many documents have.

    Smoothed as if one more document had every word, plus one, so that a word of all documents still
    counts a little: the choice of scikit-learn, which the baseline makes too.
    """
    return (np.log((1 + documents) / (1 + counts)) + 1).astype(np.float32)


def document_counts(
    wide: WidePath, parts: list[tuple[Tensor, Tensor]]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The numbers of all words, in rising order, and in how many documents each stands."""
    numbers, counts = np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)
    for tokens, document in parts:
        found = wide.words(tokens, document)
        here, which = torch.unique(found.numbers, return_inverse=True)
        once = torch.unique(torch.stack([which, found.document]), dim=1)[0]
        there = torch.bincount(once, minlength=len(here)).numpy()
        numbers, place = np.unique(np.concatenate([numbers, here.numpy()]), return_inverse=True)
        counts = np.bincount(place, weights=np.concatenate([counts, there])).astype(np.int64)
    return numbers, counts


class Regression:
    """Logistic regression from the bags of documents to their labels.

    What is minimised is the sum of cross-entropies plus `penalty` times half the squares of the
    weights, divided by the number of documents, by L-BFGS (Liu and Nocedal 1989) from zero. The
    gradient is written out: as a sum over documents for each word it takes a twentieth of the time
    that going back through `WidePath.scored` does.
    """

    def __init__(
        self, bag: Bag, labels: Int[Tensor, "N"], words: int, classes: int, penalty: float
    ) -> None:
        self._bag, self._penalty = bag, penalty
        self._wanted = functional.one_hot(labels, classes).float()
        self._begins = torch.searchsorted(bag.document, torch.arange(len(labels)))
        by_word = torch.argsort(bag.place, stable=True)
        self._document, self._weight = bag.document[by_word], bag.weight[by_word]
        self._word_begins = torch.searchsorted(bag.place[by_word], torch.arange(words))

    def minimum(
        self, counted: Bool[Tensor, "N"]
    ) -> tuple[Float[Tensor, "W C"], Float[Tensor, "C"]]:
        """Weights and bias fitted to the documents that are `counted`."""
        weight = torch.zeros(len(self._word_begins), self._wanted.shape[1], requires_grad=True)
        bias = torch.zeros(self._wanted.shape[1], requires_grad=True)
        solver = torch.optim.LBFGS(
            [weight, bias],
            max_iter=ITERATIONS,
            tolerance_grad=FLAT,
            history_size=10,
            line_search_fn="strong_wolfe",
        )
        solver.step(lambda: self._loss(weight, bias, counted))
        return weight.detach(), bias.detach()

    @torch.no_grad()
    def _loss(self, weight: Tensor, bias: Tensor, counted: Tensor) -> float:
        """The loss; its gradients are left with the two."""
        count = int(counted.sum())
        log_shares = (
            _summed(self._bag.place, weight, self._begins, self._bag.weight) + bias
        ).log_softmax(1)
        errors = (log_shares.exp() - self._wanted) * (counted[:, None] / count)
        weight.grad = _summed(self._document, errors, self._word_begins, self._weight)
        weight.grad += self._penalty / count * weight
        bias.grad = errors.sum(0)
        missed = -(log_shares * self._wanted)[counted].sum()
        return float((missed + self._penalty / 2 * weight.square().sum()) / count)


def _summed(rows: Tensor, table: Tensor, begins: Tensor, weights: Tensor) -> Tensor:
    """Weighted sums of rows of a table, one from each of `begins` to the next."""
    return functional.embedding_bag(rows, table, begins, mode="sum", per_sample_weights=weights)


def _parts(documents: LabelledDocuments, first: int | None) -> Iterator[tuple[Tensor, Tensor]]:
    """The tokens that are read of documents, some documents at a time, and to which of all each
    token belongs.
    """
    lengths = np.minimum(documents.source_lengths, first or documents.source_lengths.max())
    ends = np.cumsum(lengths)
    begin = 0
    while begin < len(documents):
        budget = ends[begin] - lengths[begin] + TOKENS_TOGETHER
        end = max(begin + 1, int(np.searchsorted(ends, budget, side="right")))
        rows = range(begin, end)
        tokens = np.concatenate([documents.document(row)[: lengths[row]] for row in rows]).astype(
            np.int64
        )
        yield (
            torch.from_numpy(tokens),
            torch.from_numpy(np.repeat(np.array(rows), lengths[begin:end])),
        )
        begin = end
