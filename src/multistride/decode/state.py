"""The hypotheses of one batch while they are decoded.

Rows are independent: each has its own border, limit and group, and leaves the batch when it is
over (`decode.ending`).

Shapes: R rows still running, K tokens in the group just picked, T most tokens of any row.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Int
from torch import Tensor

from multistride.decode.ending import EndingRule
from multistride.decode.hypothesis import Facts, Hypothesis, Running
from multistride.decode.pick import Picked
from multistride.groups import (
    Drafts,
    Slots,
    draft_everywhere,
    draft_slots,
    even_step_slots,
    prompt_slots,
    step_slots,
)

PROMPT_SLOTS = 256
"""Slots of one pass over a prompt, so that what a pass computes stays small."""


def prompt_passes(
    prompts: Int[Tensor, "B T"],
    lengths: Int[Tensor, "B"],
    start_token: int,
    start_symbol: bool,
    width: int = PROMPT_SLOTS,
) -> Iterator[Slots]:
    """Yield the passes that read prompts before the first step, at most `width` slots each; no pass
    if there is nothing to read.
    """
    slots = prompt_slots(prompts, lengths, start_token, start_symbol)
    if slots.token.shape[1]:
        yield from map(
            Slots._make, zip(*(field.split(width, dim=1) for field in slots), strict=True)
        )


class DecodeState(Running):
    """The state of a batch. The loop asks it for slots and commits tokens to it; nobody else edits
    it.
    """

    def __init__(
        self,
        limits: list[int],
        start_token: int,
        rule: EndingRule,
        prompts: Sequence[Sequence[int]] | None = None,
        start_symbol: bool = True,
    ) -> None:
        """`limits[b]` is the most tokens sentence b may have, EOS included (at least 1).

        `prompts[b]` is what sentence b is known to begin with: it is read, and no part of the
        hypothesis, its limit or its groups. `prompt_slots` are the passes to make before the first
        step. `start_symbol` says whether a start symbol stands before the first token
        (`TransformerConfig.start_symbol`).
        """
        super().__init__(limits, rule)
        self._start = start_token
        given = (
            [list(prompt) for prompt in prompts] if prompts is not None else [[] for _ in limits]
        )
        wholes = [len(prompt) + limit for prompt, limit in zip(given, limits, strict=True)]
        self._known = torch.zeros(len(limits), max(wholes, default=0), dtype=torch.long)
        for row, prompt in enumerate(prompts or ()):
            self._known[row, : len(prompt)] = torch.tensor(prompt, dtype=torch.long)
        self._border = torch.tensor([len(prompt) for prompt in given], dtype=torch.long)
        self._unread = self._border.clamp(max=1)
        self._start_symbol = start_symbol
        self._group = longest = max(map(len, given), default=0)
        alike = all(len(prompt) == longest for prompt in given)
        self._even = (
            (longest, min(longest, 1)) if alike else None
        )  # border and unread where all rows have the same

    def known(self) -> list[list[int]]:
        """The tokens of every running row, its prompt included."""
        return [
            row[:border]
            for row, border in zip(self._known.tolist(), self._border.tolist(), strict=True)
        ]

    def prompt_slots(self, width: int = PROMPT_SLOTS) -> Iterator[Slots]:
        """The passes that read the prompts (`prompt_passes`)."""
        return prompt_passes(self._known, self._border, self._start, self._start_symbol, width)

    def slots(self, group_size: int | Int[Tensor, "R"]) -> Slots:
        """The slots of the next step; a row's own are its last `group_size` columns."""
        sizes = torch.as_tensor(group_size).expand_as(self._border)
        smallest, largest = int(sizes.min()), int(sizes.max())
        if self._even is not None and smallest == largest:
            return even_step_slots(self._known, *self._even, largest, self._group, self._start)
        group = torch.full_like(self._border, self._group)
        return step_slots(self._known, self._border, self._unread, sizes, group, self._start)

    def clean_slots(self, group_size: int | Int[Tensor, "R"], mask_token: int) -> Slots:
        """Return the next slots in the lookahead layout: kept tokens clean, then masks for the
        group.

        The first of the group's own slots is clean and autoregressive; the masks are to be
        forgotten after the step.
        """
        kept = (self._unread - 1).clamp(min=0)
        border = self._border - kept
        places = border[:, None] + torch.arange(max(int(kept.max()), 1))
        drafts = self._known.gather(1, places.clamp(max=self._known.shape[1] - 1))
        return draft_slots(
            self._known, border, Drafts(drafts, kept), group_size, self._start, mask_token
        )

    def draft_slots(
        self,
        drafts: Int[Tensor, "R D"],
        counts: Int[Tensor, "R"],
        group_size: int,
        mask_token: int,
        everywhere: bool = False,
    ) -> Slots:
        """The slots of the next step where the first `counts` of `drafts` are checked and new ones
        are drafted.

        They are drafted behind the last one, or `everywhere`, so that some fit whichever of these
        is wrong.
        """
        lay_out = draft_everywhere if everywhere else draft_slots
        drafted = Drafts(drafts, counts)
        return lay_out(self._known, self._border, drafted, group_size, self._start, mask_token)

    def commit(
        self,
        picked: Picked,
        kept: Int[Tensor, "R"],
        group_size: int | Int[Tensor, "R"] | None = None,
        milliseconds: float = 0.0,
        reasons: Sequence[str] = (),
    ) -> list[Hypothesis]:
        """Append the first `kept` tokens of each row's group, apply the stop rules, and return the
        rows written to.

        The last three are for the record: the number of tokens proposed (those picked if left out),
        the time of the step, and why each row was proposed so many.

        A row ends at EOS or with the token that completes a stop text, whichever comes first (what
        its group holds after it is cut), else at its limit, wherever in the group they fall. The
        rows that ended are still in the batch until `leave` is called.
        """
        running = [hypothesis for hypothesis in self.running if hypothesis.ending is None]
        counts = kept.tolist()
        self._write(picked.tokens, kept, counts)
        sizes = torch.as_tensor(
            picked.tokens.shape[1] if group_size is None else group_size
        ).expand_as(kept)
        values = zip(picked.tokens.tolist(), picked.log_probabilities.tolist(), counts, strict=True)
        facts = zip(sizes.tolist(), reasons or [""] * len(kept), strict=True)
        for hypothesis, (tokens, scores, count), (size, reason) in zip(
            self.running, values, facts, strict=True
        ):
            self._append(
                hypothesis, tokens[:count], scores[:count], Facts(size, milliseconds, reason)
            )
        self.step += 1
        self._group += 1
        return running

    def begin(
        self, prefix: Picked, groups: int, unread: int, milliseconds: float = 0.0
    ) -> list[Hypothesis]:
        """Write a given prefix into every row before the first step, as one group of the record.

        One pass laid it out in `groups` groups, the last of which has `unread` tokens. It is
        shorter than every limit and completes no stop text.
        """
        counts = torch.full_like(self._border, prefix.tokens.shape[1])
        running = self.commit(prefix, counts, milliseconds=milliseconds)
        self._group = groups
        self._unread = torch.full_like(counts, unread)
        self._even = self._even and (self._even[0], unread)
        return running

    def leave(self) -> Int[Tensor, "R"] | None:
        """Take the rows that are over out of the batch. Returns the places of those that stay, None
        if all do.
        """
        if (places := self.leave_even()) is None:
            return None
        stay = torch.tensor(places, dtype=torch.long)
        self._known, self._border, self._unread = (
            self._known[stay],
            self._border[stay],
            self._unread[stay],
        )
        return stay

    def join(self, other: DecodeState) -> None:
        """Put the rows of another state behind its own, as `join_even` does.

        `leave` was called for both; the other must not be used afterwards.
        """
        self.join_even(other)
        width = max(self._known.shape[1], other._known.shape[1])
        self._known = torch.cat(
            [
                torch.nn.functional.pad(known, (0, width - known.shape[1]))
                for known in (self._known, other._known)
            ]
        )
        self._border = torch.cat([self._border, other._border])
        self._unread = torch.cat([self._unread, other._unread])
        self._group, self._even = max(self._group, other._group), None

    def _write(self, tokens: Int[Tensor, "R K"], kept: Int[Tensor, "R"], counts: list[int]) -> None:
        """Put the kept tokens behind the known ones. What falls past the widest limit belongs to
        rows that end.
        """
        if self._even is not None and len(set(counts)) == 1:
            border, count = self._even[0], counts[0]
            room = self._known[:, border : border + count]
            room.copy_(tokens[:, : room.shape[1]])
            self._even = border + count, count
        else:
            self._even = None
            self._scatter(tokens, kept)
        self._border = self._border + kept
        self._unread = kept

    def _scatter(self, tokens: Int[Tensor, "R K"], kept: Int[Tensor, "R"]) -> None:
        place = self._border[:, None] + torch.arange(tokens.shape[1])
        counts = torch.arange(tokens.shape[1]) < kept[:, None]
        rows, columns = torch.nonzero(counts & (place < self._known.shape[1]), as_tuple=True)
        self._known[rows, place[rows, columns]] = tokens[rows, columns]
