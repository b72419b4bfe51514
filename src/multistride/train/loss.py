"""The training objectives: cross-entropy of the labelled slots, or of the classes of documents.

Shapes: B sentences or documents, S source tokens, N slots, M slots and drafts, L labelled ones, R
windows.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from multistride.groups import NO_LABEL
from multistride.model.transformer import Transformer
from multistride.train.chunked import chunked_cross_entropy, takes_chunks
from multistride.train.layouts import TrainingPass
from multistride.train.windows import WindowPass


class Losses(NamedTuple):
    """Sums over the labelled slots, in nats; divide by the number of labels."""

    smoothed: Float[Tensor, ""]
    cross_entropy: Float[Tensor, ""]
    correct: Int[Tensor, ""]


class Objective(nn.Module):
    """The model with its objective, so that one `forward` is what devices, precision and processes
    wrap.

    Label smoothing mixes the target distribution with the uniform one (Szegedy et al. 2016, arXiv
    1512.00567, section 7). With `r_drop` above 0 a training batch is read twice, under two dropout
    masks, and the divergence of the readings from each other is added to the smoothed loss with
    weight `r_drop` (Liang et al. 2021, arXiv 2106.14448, equations 2 to 4; here half of it all, so
    that the loss stays that of one reading).
    """

    def __init__(self, model: Transformer, label_smoothing: float, r_drop: float = 0.0) -> None:
        super().__init__()
        self.model = model
        self.label_smoothing, self.r_drop = label_smoothing, r_drop

    def _read(self, logits: Callable[[], Float[Tensor, "L V"]], wanted: Int[Tensor, "L"]) -> Losses:
        """The sums over all labels; `logits` reads the batch, anew with every call."""
        first = logits()
        losses = self._losses(first, wanted)
        if not (self.r_drop and self.training):
            return losses
        second = logits()
        again = self._losses(second, wanted)
        smoothed = (losses.smoothed + again.smoothed) / 2 + self.r_drop / 4 * _divergences(
            first, second
        )
        return Losses(smoothed, (losses.cross_entropy + again.cross_entropy) / 2, losses.correct)

    def _losses(self, logits: Float[Tensor, "L V"], wanted: Int[Tensor, "L"]) -> Losses:
        log_probabilities = logits.log_softmax(dim=-1)
        cross_entropy = -log_probabilities.gather(1, wanted[:, None]).sum()
        smoothed = cross_entropy
        if self.label_smoothing:
            uniform = -log_probabilities.mean(dim=-1).sum()
            smoothed = (1 - self.label_smoothing) * cross_entropy + self.label_smoothing * uniform
        with torch.no_grad():
            correct = (logits.argmax(dim=-1) == wanted).sum()
        return Losses(smoothed, cross_entropy.detach(), correct)


class SlotLoss(Objective):
    """Cross-entropy of the tokens of labelled slots. Slots without a label cost no projection to
    the vocabulary.
    """

    def forward(
        self,
        source: Int[Tensor, "B S"] | None,
        source_lengths: Int[Tensor, "B"] | None,
        asked: TrainingPass,
    ) -> Losses:
        """Return the sums over all labels of the batch."""
        labelled = asked.labels != NO_LABEL
        wanted = asked.labels[labelled]
        if self.r_drop or not takes_chunks(self.model):
            inputs = self.model, source, source_lengths, asked
            return self._read(lambda: labelled_logits(*inputs), wanted)
        states = self.model(source, source_lengths, asked.slots, asked.drafts, asked.entering)
        before = asked.previous[labelled]
        return Losses(
            *chunked_cross_entropy(
                self.model, states[labelled], wanted, before, self.label_smoothing
            )
        )


class ClassLoss(Objective):
    """Cross-entropy of the classes of documents, of which some windows are read.

    While training some of the words that are read are replaced by the mask symbol (`word_dropout`).
    """

    def __init__(
        self,
        model: Transformer,
        label_smoothing: float,
        r_drop: float = 0.0,
        word_dropout: float = 0.0,
    ) -> None:
        super().__init__(model, label_smoothing, r_drop)
        self.word_dropout = word_dropout

    def forward(
        self,
        source: Int[Tensor, "B S"],
        source_lengths: Int[Tensor, "B"],
        asked: WindowPass,
    ) -> Losses:
        """Return the sums over all documents.

        Where the pass has no `wide_logits`, the logits of the wide path are added to those of the
        windows, if the model has one.
        """
        head = self.model.classifier
        assert head is not None
        document, begin, lengths, labels, wide_logits = asked
        place = begin[:, None] + torch.arange(int(lengths.max()), device=source.device)
        tokens = source[document[:, None], place.clamp(max=source.shape[1] - 1)]
        if wide_logits is None and head.wide is not None:
            wide_logits = head.wide(
                *real_tokens(source, source_lengths, head.config.first_tokens), len(source)
            )
        added = 0.0 if wide_logits is None else wide_logits
        return self._read(
            lambda: self._logits(tokens, lengths, document, len(source)) + added, labels
        )

    def _logits(
        self,
        tokens: Int[Tensor, "R W"],
        lengths: Int[Tensor, "R"],
        document: Int[Tensor, "R"],
        documents: int,
    ) -> Float[Tensor, "B V"]:
        head = self.model.classifier
        assert head is not None
        if self.training and self.word_dropout:
            dropped = torch.rand(tokens.shape, device=tokens.device) < self.word_dropout
            tokens = tokens.masked_fill(dropped, self.model.config.mask_token)
        encoded, _ = self.model.encode(tokens, lengths)
        logits: Tensor = head(head.pool(encoded, lengths), document, documents)
        return logits


def real_tokens(
    source: Int[Tensor, "B S"], lengths: Int[Tensor, "B"], first: int | None
) -> tuple[Int[Tensor, "N"], Int[Tensor, "N"]]:
    """The tokens of all documents without padding, the `first` of each if given, and the document
    of each token.
    """
    ends = lengths if first is None else lengths.clamp(max=first)
    real = torch.arange(source.shape[1], device=source.device) < ends[:, None]
    return source[real], real.nonzero()[:, 0]


def labelled_logits(
    model: Transformer,
    source: Int[Tensor, "B S"] | None,
    source_lengths: Int[Tensor, "B"] | None,
    asked: TrainingPass,
) -> Float[Tensor, "L V"]:
    """Return the logits of the slots (and drafts) that have a label, row by row, what the Markov
    head adds included.
    """
    hidden = model(source, source_lengths, asked.slots, asked.drafts)
    labelled = asked.labels != NO_LABEL
    logits: Tensor = model.project(hidden[labelled]).float()
    if model.markov is None:
        return logits
    before = asked.previous[labelled]
    added = model.markov(before.clamp(min=0)).float()
    return logits + torch.where((before != NO_LABEL)[:, None], added, 0)


def _divergences(first: Float[Tensor, "L V"], second: Float[Tensor, "L V"]) -> Float[Tensor, ""]:
    """The Kullback-Leibler divergences of two readings from each other, summed: both ways, over all
    labels.
    """
    one, other = first.log_softmax(dim=-1), second.log_softmax(dim=-1)
    return ((one.exp() - other.exp()) * (one - other)).sum()
