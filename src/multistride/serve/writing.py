"""From the groups that a scheduler commits to the text, tokens and counts of an answer."""

from __future__ import annotations

import asyncio
import math
import os
import random
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from multistride.data.detokenize import TextStream
from multistride.decode.hypothesis import AS_ASKED
from multistride.serve.errors import HttpProblem
from multistride.serve.scheduler import FINISH_REASONS, Committed, Ticket
from multistride.text_model import TextModel


class Part(NamedTuple):
    """The content of one event: some text, its tokens, and the step that wrote them.

    `finish_reason` is None for all parts but the last.
    """

    text: str
    tokens: tuple[int, ...]
    pieces: tuple[str, ...]
    log_probabilities: tuple[float, ...]
    step: dict[str, Any]
    finish_reason: str | None


@dataclass
class Usage:
    """Token counts of an answer."""

    prompt: int = 0
    completion: int = 0
    accepted: int = 0
    rejected: int = 0

    def add(self, committed: Committed) -> None:
        """Count a committed group."""
        kept = len(committed.group.tokens)
        self.completion += kept
        self.accepted += max(kept - 1, 0)
        if committed.ending is None:
            self.rejected += max(committed.group.group_size - kept, 0)

    def object(self) -> dict[str, Any]:
        """Return OpenAI's `usage` object."""
        return {
            "prompt_tokens": self.prompt,
            "completion_tokens": self.completion,
            "total_tokens": self.prompt + self.completion,
            "completion_tokens_details": {
                "accepted_prediction_tokens": self.accepted,
                "rejected_prediction_tokens": self.rejected,
            },
        }


@dataclass
class Answer:
    """A whole completion."""

    text: str = ""
    tokens: list[int] = field(default_factory=list)
    pieces: list[str] = field(default_factory=list)
    log_probabilities: list[float] = field(default_factory=list)
    steps: list[dict[str, Any]] = field(default_factory=list)
    finish_reason: str = "stop"


def step_facts(committed: Committed, pieces: list[str]) -> dict[str, Any]:
    """Return the `multistride` object of an event; `pieces` are its tokens as text."""
    group = committed.group
    return {
        "step": group.step,
        "group_size": group.group_size,
        "mode": committed.mode,
        "accepted": len(group.tokens),
        "confidence": [round(min(1.0, math.exp(value)), 4) for value in group.log_probabilities],
        "pieces": pieces,
        "reason": "" if group.reason == AS_ASKED else group.reason,
        "milliseconds": round(group.milliseconds, 3),
    }


class Writing:
    """An answer as it is written: from committed groups to the parts of events.

    The texts joined are the text of the whole answer: characters spread over tokens come whole,
    and what may be the beginning of a stop text waits. EOS is no token of a part.
    """

    def __init__(
        self, model: TextModel, stops: Sequence[str], usage: Usage, by_token: bool = False
    ) -> None:
        self._vocabulary, self._usage, self._by_token = model.vocabulary, usage, by_token
        self._stream = TextStream(model.vocabulary, stops, model.shape)

    async def lots(self, ticket: Ticket) -> AsyncIterator[list[Part]]:
        """Yield the parts that have come, all at once; cancel the request if nobody listens."""
        try:
            async for groups in ticket.lots():
                yield [part for committed in groups for part in self.parts(committed)]
        finally:
            ticket.cancel()

    def parts(self, committed: Committed) -> Iterator[Part]:
        """Yield the parts of a group: one, or one for each token."""
        self._usage.add(committed)
        group, ending = committed.group, committed.ending
        pieces = self._vocabulary.pieces(group.tokens)
        facts = step_facts(committed, pieces)
        count = len(group.tokens) - (ending == "end")
        reason = FINISH_REASONS.get(ending) if ending is not None else None
        slices = [slice(0, count)]
        if self._by_token:
            slices = [slice(index, min(index + 1, count)) for index in range(len(pieces))]
        for number, these in enumerate(slices, start=1):
            tokens, last = group.tokens[these], number == len(slices)
            text = self._stream.add(tokens)
            if last and ending is not None:
                text += self._stream.end()
            values = group.log_probabilities[these]
            yield Part(text, tokens, tuple(pieces[these]), values, facts, reason if last else None)


async def whole(model: TextModel, ticket: Ticket, stops: Sequence[str], usage: Usage) -> Answer:
    """Return the whole answer of a request."""
    answer = Answer()
    async for lot in Writing(model, stops, usage).lots(ticket):
        for part in lot:
            answer.text += part.text
            answer.tokens += part.tokens
            answer.pieces += part.pieces
            answer.log_probabilities += part.log_probabilities
            answer.steps.append(part.step)
            answer.finish_reason = part.finish_reason or answer.finish_reason
    return answer


async def until_gone(request: Any, work: asyncio.Future[Any]) -> Any:
    """Return the result of `work`; cancel it when the client of `request` goes away."""
    work.add_done_callback(_seen)
    while not work.done():
        await asyncio.wait({work}, timeout=0.1)
        if not work.done() and await request.is_disconnected():
            work.cancel()
            raise HttpProblem(499, "the client closed the connection", code="cancelled")
    return work.result()


def _seen(work: asyncio.Future[Any]) -> None:
    """Look at the error of what nobody waits for any more: else asyncio reports it as lost."""
    if not work.cancelled():
        work.exception()


_names = random.Random(os.urandom(32))


def fresh_name() -> str:
    """Return a name that nobody has: 128 random bits, without a call of the system each."""
    return f"{_names.getrandbits(128):032x}"


def now() -> int:
    """Return the present time in whole seconds, as OpenAI's `created` has it."""
    return int(time.time())
