"""Beam search over groups: one network call for K tokens, then ordinary pruning one token at a time.

Inside a group no token depends on another (the model is factorised), so the K lists of probable tokens that one call
gives can be consumed place by place, and the search is the one that K calls would have made. At K=1 it is ordinary
beam search. Source: Wang, Zhang, Chen (2018), arXiv 1808.08583, section 3. With a Markov head a token depends on the
one before it in its own hypothesis, which is known by then: the search stays exact up to the head's candidates.

**Pruning.** A sentence has B places. At every token the hypotheses still open are continued by every token, and the
best are kept by the sum of their log-probabilities; they are all equally long, so no normalisation could change their
order. One that writes EOS, or is as long as its limit, is finished: it holds its place for good, and one place less
is searched (Sutskever, Vinyals and Le 2014, arXiv 1409.3215, section 3.2). So every sentence ends with B finished
hypotheses (fewer only if the vocabulary cannot make B different ones), and B = 1 is greedy decoding.

**Choice.** Finished hypotheses are ranked by one score, sum of log-probabilities / length ** length_penalty, EOS
counted in the length. Equal scores: the one finished earlier first. Equal sums while pruning: the lower beam first,
then the more probable token, then the lower token id.

**Stopping early is safe.** Let an open hypothesis have the sum s and let its sentence's limit be L. What it becomes
has a sum of at most s, since log-probabilities are at most 0, and a length n of at most L. As s <= 0 and the length
penalty a >= 0, its score is at most s / n ** a <= s / L ** a. Once the wanted number of finished hypotheses all score
at least that bound for the best open hypothesis, nothing the search could still find would displace them.

Shapes: B sentences still searched, P hypotheses of a sentence, R rows of the memory (open hypotheses of all
sentences), K tokens in a group, T tokens written so far, W tokens listed for a slot.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from multistride.decode.markov import CANDIDATES, correct
from multistride.decode.options import DecodeOptions
from multistride.decode.pick import Shortlist, leading, shortlist
from multistride.decode.state import Group, Hypothesis
from multistride.groups import Slots, prompt_slots, step_slots
from multistride.model.markov import MarkovHead
from multistride.model.step import M, StepModel

NOBODY = float("-inf")
"""The sum of a place that no open hypothesis stands in."""


class Ranked(NamedTuple):
    """A finished hypothesis and its score: sum of log-probabilities / length ** length_penalty."""

    score: float
    hypothesis: Hypothesis


class BeamState:
    """The open and finished hypotheses of a batch. The search asks for slots and commits lists; nobody else edits it.

    Open hypotheses stand in tables of [B, P]; each knows the row of the memory that holds its past.
    """

    def __init__(
        self,
        limits: list[int],
        options: DecodeOptions,
        wanted: int,
        end_token: int,
        prompts: list[list[int]] | None = None,
    ) -> None:
        """`limits[b]` is the most tokens sentence b may have, EOS included (at least 1).

        `prompts[b]` stands before them in a causal model.
        """
        self.finished: list[list[Ranked]] = [[] for _ in limits]
        self._group_size, self._wanted, self._end = options.group_size, wanted, end_token
        prompts = prompts or [[] for _ in limits]
        self._prompt_lengths = torch.tensor([len(prompt) for prompt in prompts], dtype=torch.long)
        self._prompts = prompts
        lengths = range(max(limits, default=0) + 1)
        self._divisors = torch.tensor([max(length, 1) ** options.length_penalty for length in lengths]).double()
        self._sentences = torch.arange(len(limits))
        self._limits = torch.tensor(limits, dtype=torch.long)
        self._places = torch.full_like(self._limits, options.beam)
        self._bar = torch.full((len(limits),), NOBODY, dtype=torch.float64)
        self._rows = self._sentences[:, None]
        self._sums = torch.zeros(len(limits), 1, dtype=torch.float64)
        self._tokens = torch.zeros(len(limits), 1, 0, dtype=torch.long)
        self._log_probabilities = torch.zeros(len(limits), 1, 0)

    @property
    def done(self) -> bool:
        """Whether the search is over for every sentence."""
        return not len(self._sentences)

    @property
    def width(self) -> int:
        """How many tokens of a slot can matter: the most places that any sentence still searches."""
        return int(self._places.max())

    @property
    def open(self) -> Bool[Tensor, "B P"]:
        """Where an open hypothesis stands. Read row by row, these are the rows of the memory."""
        return self._sums > NOBODY

    def slots(self, start_token: int) -> Slots:
        """The slots of the next step, one row for each open hypothesis.

        Shorter prompts are filled up with start symbols in front, which is what stands there anyway; then all rows
        are equally long, and only positions say where each of them begins.
        """
        sentences = self._sentences[:, None].expand(self.open.shape)[self.open]
        longest = max(map(len, self._prompts), default=0)
        before = [[start_token] * (longest - len(prompt)) + prompt for prompt in self._prompts]
        prompts = torch.tensor(before, dtype=torch.long).view(len(before), longest)[sentences]
        known = torch.cat([prompts, self._tokens[self.open]], dim=1)
        rows, border = known.shape
        size = torch.full((rows,), self._group_size)
        unread = size.clamp(max=border)
        group = torch.full_like(size, longest + border // self._group_size)
        slots = step_slots(known, torch.full_like(size, border), unread, size, group, start_token)
        missing = longest - self._prompt_lengths[sentences]
        return slots._replace(position=slots.position - missing[:, None])

    def commit(self, listed: Shortlist, head: MarkovHead | None = None) -> None:
        """Continue the open hypotheses by a group, one place after the other; stop where nobody is open.

        With a Markov head every place after the first is corrected by what each hypothesis has written before it.
        """
        for place in range(self._group_size):
            if bool(self.open.any()):
                tokens = listed.tokens[self._rows, place]
                log_probabilities = listed.log_probabilities[self._rows, place]
                if head is not None and place > 0:
                    rows = (self._tokens[:, :, -1], tokens, log_probabilities)
                    corrected = correct(head, *(field.flatten(0, 1) for field in rows))
                    log_probabilities = corrected.view_as(log_probabilities).clamp(max=0)
                self._advance(tokens, log_probabilities)

    def leave(self) -> Int[Tensor, "R"]:
        """Take out the sentences whose search is over; return the rows of the memory the others go on with.

        The rows come in the order of the next step's slots; a row with several heirs is returned for each.
        """
        bound = self._sums.amax(dim=1) / self._divisors[self._limits]
        stay = (bound > self._bar).nonzero().flatten()
        self._sentences, self._limits = self._sentences[stay], self._limits[stay]
        self._places, self._bar = self._places[stay], self._bar[stay]
        self._sums, self._tokens = self._sums[stay], self._tokens[stay]
        self._log_probabilities = self._log_probabilities[stay]
        heirs = self._rows[stay][self.open]
        self._rows = (self.open.flatten().cumsum(0) - 1).clamp(min=0).view_as(self._sums)
        return heirs

    def ranked(self) -> list[list[Ranked]]:
        """The wanted number of finished hypotheses of each sentence, best first."""
        return [sorted(found, key=lambda each: -each.score)[: self._wanted] for found in self.finished]

    def _advance(self, tokens: Int[Tensor, "B P W"], log_probabilities: Float[Tensor, "B P W"]) -> None:
        """Continue every open hypothesis by one of its listed tokens, and keep the best in each sentence."""
        listed = tokens.shape[2]
        candidates = self._sums[:, :, None] + log_probabilities
        sums, chosen = leading(candidates.flatten(1), self.width)
        sentences, parents = torch.arange(len(sums))[:, None], chosen // listed
        self._rows = self._rows[sentences, parents]
        self._tokens = _appended(self._tokens[sentences, parents], tokens.flatten(1).gather(1, chosen))
        values = log_probabilities.flatten(1).gather(1, chosen)
        self._log_probabilities = _appended(self._log_probabilities[sentences, parents], values)
        kept = (torch.arange(sums.shape[1]) < self._places[:, None]) & (sums > NOBODY)
        at_limit = self._tokens.shape[2] == self._limits[:, None]
        over = kept & ((self._tokens[:, :, -1] == self._end) | at_limit)
        self._finish(over, sums)
        self._sums = sums.masked_fill(~kept | over, NOBODY)
        self._places = self._places - over.sum(dim=1)

    def _finish(self, over: Bool[Tensor, "B P"], sums: Float[Tensor, "B P"]) -> None:
        """Record the hypotheses that are over, lowest beam first, and raise the bar of their sentences."""
        scores = (sums[over] / self._divisors[self._tokens.shape[2]]).tolist()
        written = zip(self._tokens[over].tolist(), self._log_probabilities[over].tolist(), strict=True)
        for place, score, (tokens, values) in zip(over.nonzero()[:, 0].tolist(), scores, written, strict=True):
            found = self.finished[int(self._sentences[place])]
            hypothesis = Hypothesis(int(self._sentences[place]), int(self._limits[place]))
            hypothesis.ending = "end" if tokens[-1] == self._end else "limit"
            hypothesis.groups = _grouped(tokens, values, self._group_size)
            found.append(Ranked(score, hypothesis))
            if len(found) >= self._wanted:
                self._bar[place] = sorted(each.score for each in found)[-self._wanted]


@torch.inference_mode()
def search(
    model: StepModel[M],
    source: Int[Tensor, "B S"] | None,
    lengths: Int[Tensor, "B"] | None,
    limits: list[int],
    options: DecodeOptions,
    wanted: int | None = None,
) -> list[list[Ranked]]:
    """The `wanted` best hypotheses of each sentence (None: all `options.beam`), best first.

    `source` holds the prompts of a causal model, or is None; `limits[b]` is the most tokens sentence b may have, EOS
    included. The fewer are wanted, the earlier the search may stop; those it returns are the same.
    """
    assert wanted is None or 1 <= wanted <= options.beam, "at least 1 and at most `beam` hypotheses can be wanted"
    config, size = model.config, options.group_size
    listed = shortlist(config)
    prompts = None
    if source is not None and lengths is not None and not config.encoder_layers:
        prompts = [row[:length] for row, length in zip(source.tolist(), lengths.tolist(), strict=True)]
        memory = model.start(None, None)
        if (known := prompt_slots(source, lengths, config.start_token, config.start_symbol)).token.shape[1]:
            model.step(known, memory)
    else:
        memory = model.start(source, lengths)
    state = BeamState(limits, options, wanted or options.beam, config.end_token, prompts)
    while not state.done:
        logits = model.step(state.slots(config.start_token), memory)
        width = state.width if model.markov is None else max(state.width, CANDIDATES)
        state.commit(listed(logits[:, -size:], width), model.markov)
        heirs = state.leave()
        if not state.done:
            memory.reorder(heirs)
    return state.ranked()


def search_batch(
    model: StepModel[M], source: Int[Tensor, "B S"], lengths: Int[Tensor, "B"], options: DecodeOptions
) -> list[Hypothesis]:
    """The best hypothesis of each sentence. Sources are padded on the right and end in EOS; prompts do not."""
    limits = [options.limit(length, model.config) for length in lengths.tolist()]
    return [best.hypothesis for [best] in search(model, source, lengths, limits, options, wanted=1)]


def _appended(table: Tensor, column: Tensor) -> Tensor:
    """A table [B, P, T] with one more column [B, P]."""
    return torch.cat([table, column[:, :, None]], dim=2)


def _grouped(tokens: list[int], log_probabilities: list[float], size: int) -> list[Group]:
    """What each step wrote into a hypothesis."""
    borders = range(0, len(tokens), size)
    return [
        Group(step, size, tuple(tokens[border : border + size]), tuple(log_probabilities[border : border + size]))
        for step, border in enumerate(borders)
    ]
