"""The models of a server: their names, what they take, and how their requests are decoded."""

from __future__ import annotations

import asyncio
import re
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from multistride.data.chat import rendered
from multistride.data.vocab import Vocabulary
from multistride.decode.options import Mode
from multistride.errors import DataError, UsageError
from multistride.serve.errors import Gone, HttpProblem
from multistride.serve.metrics import Metrics
from multistride.serve.orders import Work
from multistride.serve.plans import Plans
from multistride.serve.scheduler import Scheduler, Ticket
from multistride.text_model import TextModel
from multistride.untrusted import parse_yaml

LONG = 4096
"""Characters from which on a text is encoded off the event loop: a megabyte takes a second."""

FRONT_MATTER = re.compile(r"---[ \t]*\r?\n(.*?)^---", re.DOTALL | re.MULTILINE)
"""The facts at the top of a model card, in YAML."""

LANGUAGES = {"en": "English", "de": "German", "fr": "French", "zh": "Chinese", "cs": "Czech"}
"""Names of language codes; other codes stand for themselves."""


BLANK = "the text is blank: write something"


@dataclass(frozen=True)
class Defaults:
    """The group size and mode of requests that do not say."""

    group_size: int | Literal["auto"] = "auto"
    mode: Mode = "fast"


class ServedModel:
    """A model under its name, and the queue of its requests."""

    def __init__(
        self, name: str, model: TextModel, plans: Plans, defaults: Defaults, scheduler: Scheduler
    ) -> None:
        self.name, self.model, self.plans, self.defaults = name, model, plans, defaults
        self.scheduler = scheduler
        self.created = int(time.time())
        self.languages = languages_of(self.model.directory)

    @property
    def vocabulary(self) -> Vocabulary:
        """The vocabulary."""
        return self.model.vocabulary

    @property
    def translates(self) -> bool:
        """True for a model with an encoder."""
        return not self.model.causal

    def card(self) -> dict[str, Any]:
        """Return the model as OpenAI lists it, and what K it takes."""
        config = self.model.config
        return {
            "id": self.name,
            "object": "model",
            "created": self.created,
            "owned_by": "multistride",
            "multistride": {
                "kind": "translation" if self.translates else "generation",
                "group_sizes": list(config.group_sizes),
                "largest_group_size": self.plans.largest("fast"),
                "largest_exact_group_size": self.plans.largest("exact"),
                "default_group_size": self.defaults.group_size,
                "default_mode": self.defaults.mode,
                "context": config.max_positions,
                "chat": self.vocabulary.chat_template is not None and not self.translates,
                "engine": self.model.engine.name,
                "languages": list(self.languages),
            },
        }

    async def encode(self, text: str) -> list[int]:
        """Return the tokens of a source or a prompt. Raises `HttpProblem` if it cannot be read."""
        if len(text) < LONG:
            return self._encoded(text)
        return await asyncio.to_thread(self._encoded, text)

    async def encode_chat(self, messages: list[dict[str, str]]) -> list[int]:
        """Return the tokens of a conversation. Raises `HttpProblem` for a model without chat."""
        if sum(len(message["content"]) for message in messages) < LONG:
            return self._encoded_chat(messages)
        return await asyncio.to_thread(self._encoded_chat, messages)

    def _encoded(self, text: str) -> list[int]:
        if self.translates and self.model.is_blank(text):
            raise HttpProblem(400, BLANK, code="invalid_input")
        [tokens] = self.model.encode([text])
        return self._fitting(tokens)

    def _encoded_chat(self, messages: list[dict[str, str]]) -> list[int]:
        template = self.vocabulary.chat_template
        if template is None or self.translates:
            raise HttpProblem(
                400,
                f"model {self.name} has no chat template: use /v1/completions",
                "model",
                "no_chat",
            )
        try:
            text = rendered(template, messages, self.vocabulary.symbols())
        except (DataError, UsageError) as error:
            raise HttpProblem(400, f"messages: {error}", "messages", "invalid_value") from error
        [tokens] = self.vocabulary.encode_rendered([text])
        return self._fitting(tokens)

    def checked_tokens(self, tokens: list[int]) -> list[int]:
        """Return given tokens. Raises `HttpProblem` if there is nothing to translate, or if one is
        none of the model's.
        """
        if self.translates and not tokens:
            raise HttpProblem(400, BLANK, code="invalid_input")
        size = self.model.config.vocabulary_size
        if wrong := [token for token in tokens if not 0 <= token < size]:
            raise HttpProblem(
                400,
                f"prompt: token {wrong[0]} was given; this model has 0 to {size - 1}",
                "prompt",
                "invalid_value",
            )
        return self._fitting(tokens)

    def check_room(self, count: int) -> None:
        """Raise `HttpProblem` 413 for more texts in one request than may ever wait."""
        most = self.scheduler.capacity.waiting
        if count > most:
            raise HttpProblem(
                413,
                f"{count:,} texts were asked for at once, and at most {most:,} may wait here: send "
                "several requests",
                code="too_large",
            )

    def submit(
        self,
        tokens: list[int],
        choices: dict[str, Any],
        name: str,
        whole: bool = False,
        begun: bool = False,
    ) -> Ticket:
        """Queue a request; `whole` if nobody looks before its text is over, `begun` if other texts
        of it are in the queue.

        Raises `UsageError` for choices that the model or mode does not take.
        """
        chosen = {"group_size": self.defaults.group_size, "mode": self.defaults.mode, **choices}
        if chosen["mode"] == "fast" and "mode" not in choices and "threshold" in choices:
            chosen["mode"] = "adaptive"
        seed = chosen.pop("seed", 0)
        if seed and not chosen.get("temperature"):
            raise UsageError(
                f"seed {seed} was given at temperature 0, where nothing is drawn: set a "
                "temperature, or leave it out"
            )
        most = chosen.pop("max_tokens", None)
        if chosen["group_size"] == "auto":
            load, overhead = self.scheduler.load + 1, self.scheduler.overhead
            chosen["group_size"] = self.plans.size(chosen, load, overhead)
        fixed = tuple(sorted(chosen.items()))
        neutral, planned = self.plans.of(fixed)
        limits = neutral if most is None else neutral.model_copy(update={"max_tokens": most})
        if most is not None:
            limits.check_lengths(self.model.config)  # the plan has checked the rest
        prefix = len(planned.rules.prefix)
        if most is not None and 0 < most <= prefix and chosen.get("prefix"):
            raise UsageError(
                f"the prefix has {prefix} tokens and a translation at most {most}: give a shorter "
                "prefix, or a larger max_tokens"
            )
        read = len(tokens) + self.translates  # a source ends in EOS
        limit = limits.limit(read, self.model.config, prefix)
        work = Work(0, tuple(tokens), fixed, limit, seed, name)
        return self.scheduler.submit(work, whole, begun)

    def _fitting(self, tokens: list[int]) -> list[int]:
        if problem := self.model.problem(tokens):
            raise HttpProblem(
                400, f"the text cannot be decoded: {problem}", code="context_length_exceeded"
            )
        return tokens


@dataclass
class Served:
    """All models of a server, the first of which is the default."""

    models: dict[str, ServedModel]
    metrics: Metrics
    draining: bool = field(default=False, init=False)

    async def start(self) -> None:
        """Start decoding."""
        for model in self.models.values():
            await model.scheduler.start()

    def stop(self) -> None:
        """End decoding."""
        for model in self.models.values():
            model.scheduler.stop()

    def drain(self) -> None:
        """Take no new requests."""
        self.draining = True
        for model in self.models.values():
            model.scheduler.draining = True

    def failed(self) -> str | None:
        """Return which model will never decode again; None if all can."""
        broken = self._broken()
        return f"model {broken[0]} failed" if broken else None

    def _broken(self) -> list[str]:
        return [model.name for model in self.models.values() if model.scheduler.broken]

    def not_ready(self) -> str | None:
        """Return why no requests are taken; None if they are."""
        if self.draining:
            return "the server is shutting down"
        if self._broken():
            return Gone(self._broken()[0]).message
        full = [model.name for model in self.models.values() if model.scheduler.full]
        return f"the queue of model {full[0]} is full" if full else None

    def model(self, name: str | None) -> ServedModel:
        """Return a model by its name. Raises `HttpProblem` 404 for another name."""
        if name is None:
            return next(iter(self.models.values()))
        if name not in self.models:
            known = ", ".join(self.models)
            raise HttpProblem(
                404, f"there is no model {name[:200]!r} here: {known}", "model", "model_not_found"
            )
        return self.models[name]

    def translator(self, name: str | None) -> ServedModel:
        """Return a translation model: that of the name, else the first one."""
        if name is not None:
            chosen = self.model(name)
            if not chosen.translates:
                raise HttpProblem(
                    400,
                    f"model {name} continues prompts and translates nothing: use /v1/completions",
                    "model",
                    "wrong_kind",
                )
            return chosen
        for model in self.models.values():
            if model.translates:
                return model
        raise HttpProblem(
            404,
            "no translation model is served here: use /v1/completions",
            "model",
            "no_translator",
        )

    def for_languages(self, source: str, target: str) -> ServedModel:
        """Return the model for a pair of languages. `source` may be "auto" where only one fits."""
        fitting = [
            (own, other)
            for own, other in dict.fromkeys(self._pairs())
            if other == target and source in (own, "auto")
        ]
        if len(fitting) > 1:
            sources = " or ".join(own for own, _ in fitting)
            reason = f"source auto fits several models here: give {sources}"
            raise HttpProblem(400, reason, code="languages")
        if fitting:
            return self._by_pair(*fitting[0])
        known = [f"{own} to {other}" for own, other in self._pairs()]
        given = f"{source[:20]!r} to {target[:20]!r}"
        if not known:
            reason = f"{given} was asked for, and no served model names its languages"
        else:
            reason = f"{given} is not supported here: give {' or '.join(known)}"
        raise HttpProblem(400, reason, code="languages")

    def languages(self) -> list[dict[str, Any]]:
        """Return the languages as LibreTranslate lists them."""
        codes = dict.fromkeys(code for pair in self._pairs() for code in pair)
        return [
            {
                "code": code,
                "name": LANGUAGES.get(code, code),
                "targets": sorted({target for source, target in self._pairs() if source == code}),
            }
            for code in codes
        ]

    def _by_pair(self, source: str, target: str) -> ServedModel:
        return next(model for model in self.models.values() if model.languages == (source, target))

    def _pairs(self) -> list[tuple[str, str]]:
        return [
            (model.languages[0], model.languages[1])
            for model in self.models.values()
            if model.translates and len(model.languages) == 2
        ]


def languages_of(directory: Path | None) -> tuple[str, ...]:
    """Return the languages in the model card, source before target; () where it names none."""
    card = None if directory is None else directory / "README.md"
    if card is None or not card.is_file():
        return ()
    text = card.read_text(encoding="utf-8", errors="replace")[:LONG]
    matter = FRONT_MATTER.match(text)
    try:
        facts = parse_yaml(matter[1]) if matter else None
    except ValueError:  # a card is for readers: a server starts without it, too
        return ()
    listed = facts.get("language") if isinstance(facts, dict) else None
    codes = listed if isinstance(listed, list) else [listed] if listed is not None else []
    return tuple("no" if code is False else str(code) for code in codes)  # YAML 1.1: Norwegian
