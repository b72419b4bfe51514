"""Beam search over groups: one network call for K tokens, then ordinary pruning one token at a
time.

Inside a group no token depends on another (the model is factorised), so the K lists of probable
tokens that one call gives can be consumed place by place, and the search is the one that K calls
would have made. At K=1 it is ordinary beam search. Source: Wang, Zhang, Chen (2018), arXiv
1808.08583, section 3. With a Markov head a token depends on the one before it in its own
hypothesis, which is known by then: each has a list of its own, and the search stays exact.

**Pruning.** A sentence has B places. At every token the hypotheses still open are continued by
every token, and the best are kept by the sum of their log-probabilities; they are all equally long,
so no normalisation could change their order. One that writes EOS, or is as long as its limit, is
finished: it holds its place for good, and one place less is searched (Sutskever, Vinyals and Le
2014, arXiv 1409.3215, section 3.2). So every sentence ends with B finished hypotheses (fewer only
if the vocabulary cannot make B different ones), and B = 1 is greedy decoding.

**Choice.** Finished hypotheses are ranked by one score, sum of log-probabilities / length **
length_penalty, EOS counted in the length. Equal scores: the one finished earlier first. Equal sums
while pruning: the lower beam first, then the more probable token, then the lower token id.

**Stopping early is safe.** Let an open hypothesis have the sum s and let its sentence's limit be L.
What it becomes has a sum of at most s, since log-probabilities are at most 0, and a length n of at
most L. As s <= 0 and the length penalty a >= 0, its score is at most s / n ** a <= s / L ** a. Once
the wanted number of finished hypotheses all score at least that bound for the best open hypothesis,
nothing the search could still find would displace them.

Shapes: B sentences still searched, P hypotheses of a sentence, R rows of the memory (open
hypotheses of all sentences), K tokens in a group, T tokens written so far, W tokens listed for a
slot.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from multistride.decode.ending import Ending, EndingRule
from multistride.decode.hypothesis import Group, Hypothesis, check_scores
from multistride.decode.markov import distribution
from multistride.decode.options import DecodeOptions
from multistride.decode.pick import Shortlist, leading, shortlist
from multistride.decode.plan import Plan, planned
from multistride.decode.prefix import Prefix, read_prefix
from multistride.decode.state import prompt_passes
from multistride.decode.step import M, StepModel, reading
from multistride.decode.walk import Permitted
from multistride.groups import NO_LABEL, Slots, step_slots

Continuations = Callable[[int, Int[Tensor, "B P"], Int[Tensor, "B P T"]], Shortlist]
"""The place in the group, each hypothesis's row of the memory and its tokens, to what it may go on
with [B, P, W]."""

NOBODY = float("-inf")
"""The sum of a place that no open hypothesis stands in."""


class Ranked(NamedTuple):
    """A finished hypothesis and its score: sum of log-probabilities / length ** length_penalty."""

    score: float
    hypothesis: Hypothesis


class BeamState:
    """The open and finished hypotheses of a batch. The search asks for slots and commits lists;
    nobody else edits it.

    Open hypotheses stand in tables of [B, P]; each knows the row of the memory that holds its past.
    """

    def __init__(
        self,
        limits: list[int],
        options: DecodeOptions,
        wanted: int,
        rule: EndingRule,
        prompts: list[list[int]] | None = None,
    ) -> None:
        """`limits[b]` is the most tokens sentence b may have, EOS included (at least 1).

        `prompts[b]` stands before them in a causal model.
        """
        self.finished: list[list[Ranked]] = [[] for _ in limits]
        self._group_size, self._wanted, self._rule = options.group_size, wanted, rule
        self._ends = torch.tensor(sorted(rule.ends))
        self._group = self._unread = self._prefix = 0
        self._prompts = prompts or [[] for _ in limits]
        self._prompt_lengths = torch.tensor(
            [len(prompt) for prompt in self._prompts], dtype=torch.long
        )
        lengths = range(max(limits, default=0) + 1)
        self._divisors = torch.tensor(
            [max(length, 1) ** options.length_penalty for length in lengths]
        ).double()
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
        """True once the search is over for every sentence."""
        return not len(self._sentences)

    @property
    def width(self) -> int:
        """The most hypotheses that any sentence still searches, which bounds useful tokens per
        slot.
        """
        return int(self._places.max())

    @property
    def open(self) -> Bool[Tensor, "B P"]:
        """Mask of the open hypotheses. Read row by row, these are the rows of the memory."""
        return self._sums > NOBODY

    @property
    def sentences(self) -> list[int]:
        """The sentence of every place of the beams, open or not, row by row."""
        return self._sentences[:, None].expand(self._sums.shape).flatten().tolist()

    def slots(self, start_token: int) -> Slots:
        """The slots of the next step, one row for each open hypothesis.

        Shorter prompts are filled up with start symbols in front, which is what stands there
        anyway; then all rows are equally long, and only positions say where each of them begins.
        """
        sentences = self._sentences[:, None].expand(self.open.shape)[self.open]
        longest = max(map(len, self._prompts), default=0)
        before = [[start_token] * (longest - len(prompt)) + prompt for prompt in self._prompts]
        prompts = torch.tensor(before, dtype=torch.long).view(len(before), longest)[sentences]
        known = torch.cat([prompts, self._tokens[self.open]], dim=1)
        rows, border = known.shape
        size = torch.full((rows,), self._group_size)
        unread, group = (
            torch.full_like(size, self._unread),
            torch.full_like(size, longest + self._group),
        )
        slots = step_slots(known, torch.full_like(size, border), unread, size, group, start_token)
        missing = longest - self._prompt_lengths[sentences]
        return slots._replace(position=slots.position - missing[:, None])

    def begin(self, prefix: Prefix) -> None:
        """Let every sentence begin with a prefix, whose log-probabilities count.

        A sentence that it fills is over. `leave` is to be called before the next step.
        """
        given, self._group, self._unread = prefix
        self._prefix = given.tokens.shape[1]
        self._tokens = given.tokens[:, None].clone()
        self._log_probabilities = given.log_probabilities[:, None].clone()
        self._sums = given.log_probabilities.double().sum(dim=1, keepdim=True)
        full = (self._limits <= self._prefix)[:, None]
        self._finish(full, ["limit"] * int(full.sum()), self._sums)
        self._sums = self._sums.masked_fill(full, NOBODY)

    def commit(self, continuations: Continuations) -> None:
        """Continue the open hypotheses by a group, one place after the other; stop where nobody is
        open.
        """
        for place in range(self._group_size):
            if bool(self.open.any()):
                self._advance(*continuations(place, self._rows, self._tokens))
        self._group, self._unread = self._group + 1, self._group_size

    def leave(self) -> Int[Tensor, "R"]:
        """Take out the sentences whose search is over; return the rows of the memory the others go
        on with.

        The rows come in the order of the next step's slots; a row with several heirs is returned
        for each.
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
        return [
            sorted(found, key=lambda each: -each.score)[: self._wanted] for found in self.finished
        ]

    def _advance(
        self, tokens: Int[Tensor, "B P W"], log_probabilities: Float[Tensor, "B P W"]
    ) -> None:
        """Continue every open hypothesis by one of its listed tokens, and keep the best in each
        sentence.
        """
        listed = tokens.shape[2]
        candidates = self._sums[:, :, None] + log_probabilities
        sums, chosen = leading(candidates.flatten(1), self.width)
        check_scores(sums[sums.isnan()].tolist())
        sentences, parents = torch.arange(len(sums))[:, None], chosen // listed
        self._rows = self._rows[sentences, parents]
        self._tokens = _appended(
            self._tokens[sentences, parents], tokens.flatten(1).gather(1, chosen)
        )
        values = log_probabilities.flatten(1).gather(1, chosen)
        self._log_probabilities = _appended(self._log_probabilities[sentences, parents], values)
        kept = (torch.arange(sums.shape[1]) < self._places[:, None]) & (sums > NOBODY)
        endings = self._endings(kept)
        over = torch.zeros_like(kept)
        over[kept] = torch.tensor([ending is not None for ending in endings], dtype=torch.bool)
        self._finish(over, [ending for ending in endings if ending is not None], sums)
        self._sums = sums.masked_fill(~kept | over, NOBODY)
        self._places = self._places - over.sum(dim=1)

    def _endings(self, kept: Bool[Tensor, "B P"]) -> list[Ending | None]:
        """Return for each of the kept hypotheses why its last token ends it, or None."""
        length = self._tokens.shape[2]
        at_limit = length == self._limits[:, None]
        may_end = at_limit | torch.isin(self._tokens[:, :, -1], self._ends)
        if self._rule.reads_text:
            may_end = torch.ones_like(may_end)
        endings: list[Ending | None] = [None] * int(kept.sum())
        indices = may_end[kept].nonzero().flatten().tolist()
        rooms = (self._limits[:, None].expand_as(kept)[kept & may_end] - length + 1).tolist()
        for index, tokens, room in zip(
            indices, self._tokens[kept & may_end].tolist(), rooms, strict=True
        ):
            endings[index] = self._rule.ending(tokens[:-1], tokens[-1:], room)[1]
        return endings

    def _finish(
        self, over: Bool[Tensor, "B P"], endings: list[Ending], sums: Float[Tensor, "B P"]
    ) -> None:
        """Record the hypotheses that are over, lowest beam first, and raise the bar of their
        sentences.
        """
        scores = (sums[over] / self._divisors[self._tokens.shape[2]]).tolist()
        written = zip(
            self._tokens[over].tolist(), self._log_probabilities[over].tolist(), strict=True
        )
        ended = zip(over.nonzero()[:, 0].tolist(), endings, scores, written, strict=True)
        for place, ending, score, (tokens, values) in ended:
            found = self.finished[int(self._sentences[place])]
            hypothesis = Hypothesis(int(self._sentences[place]), int(self._limits[place]))
            hypothesis.ending = ending
            hypothesis.groups = _grouped(tokens, values, self._group_size, self._prefix)
            found.append(Ranked(score, hypothesis))
            if len(found) >= self._wanted:
                self._bar[place] = sorted(each.score for each in found)[-self._wanted]


@torch.inference_mode()
def search(
    engine: StepModel[M],
    source: Int[Tensor, "B S"] | None,
    lengths: Int[Tensor, "B"] | None,
    limits: list[int],
    requested: Plan | DecodeOptions,
    wanted: int | None = None,
) -> list[list[Ranked]]:
    """Return the `wanted` best hypotheses of each text (None: all of the beam), best first.

    `source` holds the prompts of a causal model, or is None; `limits[b]` is the most tokens text b
    may have, EOS included. The fewer are wanted, the earlier the search may stop; those it returns
    are the same.
    """
    plan, config = planned(requested, engine.config), engine.config
    beam, size, rules = plan.options.beam, plan.group_size, plan.rules
    assert wanted is None or 1 <= wanted <= beam, "at least 1 and at most `beam` can be wanted"
    given = None
    if source is not None and lengths is not None:
        given = [
            row[:length] for row, length in zip(source.tolist(), lengths.tolist(), strict=True)
        ]
    prompts = None
    if source is not None and lengths is not None and not config.encoder_layers:
        prompts = given
        memory = engine.start(None, None)
        read = reading(engine)
        for known in prompt_passes(source, lengths, config.start_token, config.start_symbol):
            read(known, memory)
    else:
        memory = engine.start(source, lengths)
    state = BeamState(limits, plan.options, wanted or beam, plan.ending, prompts)
    permitted = rules.permitted if given is None else rules.in_batch(given, config)
    shared = permitted is None and engine.markov is None
    continuing = _shared_lists(engine) if shared else _own_lists(engine, permitted, state)
    if rules.prefix and not state.done:
        state.begin(read_prefix(engine, memory, len(limits), rules.prefix, size))
        heirs = state.leave()
        if not state.done:
            memory.reorder(heirs)
    while not state.done:
        logits = engine.step(state.slots(config.start_token), memory)
        state.commit(continuing(logits[:, -size:], state.width))
        del logits  # they are large: those of two steps are never there together
        heirs = state.leave()
        if not state.done:
            memory.reorder(heirs)
    return state.ranked()


def _shared_lists(model: StepModel[M]) -> Callable[[Float[Tensor, "R K V"], int], Continuations]:
    """Continuations from one list a slot, which all hypotheses of a row share."""
    listing = shortlist(model.config)

    def continuing(logits: Float[Tensor, "R K V"], width: int) -> Continuations:
        listed = listing(logits, width)
        return lambda place, rows, written: Shortlist(*(field[rows, place] for field in listed))

    return continuing


def _own_lists(
    model: StepModel[M], permitted: Permitted | None, state: BeamState
) -> Callable[[Float[Tensor, "R K V"], int], Continuations]:
    """Continuations from a list for each hypothesis, where what may come next depends on what it
    has written.
    """
    log_probabilities = distribution(model.config, model.markov)

    def continuing(logits: Float[Tensor, "R K V"], width: int) -> Continuations:
        def continuations(
            place: int, rows: Int[Tensor, "B P"], written: Int[Tensor, "B P T"]
        ) -> Shortlist:
            histories = written.flatten(0, 1)
            fresh = place == 0 or model.markov is None
            previous = torch.full((len(histories),), NO_LABEL) if fresh else histories[:, -1]
            own = log_probabilities(logits[rows.flatten().to(logits.device), place], previous)
            allowed = (
                own if permitted is None else permitted(own, histories.tolist(), state.sentences)
            )
            values, tokens = leading(allowed, width)
            return Shortlist(
                tokens.view(*rows.shape, -1), values.clamp(max=0).view(*rows.shape, -1)
            )

        return continuations

    return continuing


def search_batch(
    engine: StepModel[M],
    source: Int[Tensor, "B S"],
    lengths: Int[Tensor, "B"],
    requested: Plan | DecodeOptions,
) -> list[Hypothesis]:
    """Return the best hypothesis of each text. Sources are padded on the right and end in EOS;
    prompts do not.
    """
    plan = planned(requested, engine.config)
    limits = [plan.limit(length) for length in lengths.tolist()]
    ranked = search(engine, source, lengths, limits, plan, wanted=1)
    return [best.hypothesis for [best] in ranked]


def _appended(table: Tensor, column: Tensor) -> Tensor:
    """A table [B, P, T] with one more column [B, P]."""
    return torch.cat([table, column[:, :, None]], dim=2)


def _grouped(
    tokens: list[int], log_probabilities: list[float], size: int, prefix: int
) -> list[Group]:
    """Return the groups of a hypothesis: the given prefix, then `size` tokens each."""
    starts = [*([0] if prefix else []), *range(prefix, len(tokens), size)]
    return [
        Group(
            step,
            prefix if start < prefix else size,
            tuple(tokens[start:end]),
            tuple(log_probabilities[start:end]),
        )
        for step, (start, end) in enumerate(zip(starts, [*starts[1:], len(tokens)], strict=True))
    ]
