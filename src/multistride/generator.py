"""Causal models: prompts in, what follows them out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NoReturn

from multistride.data.chat import rendered
from multistride.data.detokenize import as_it_is
from multistride.data.vocab import Vocabulary
from multistride.decode.options import Mode
from multistride.decode.score import score_continuations
from multistride.engines.interface import Engine
from multistride.engines.names import EngineName
from multistride.engines.open import opened_model
from multistride.errors import UsageError
from multistride.shipped import existing
from multistride.text_model import (
    Pairs,
    StreamedGroup,
    TextModel,
    divided,
    no_chat,
    scored_size,
    tokens_of,
)
from multistride.translation import Translation, listed


class Generator(TextModel):
    """A causal model with its vocabulary. Texts are as the model wrote them, with line breaks."""

    shape = staticmethod(as_it_is)

    def __init__(
        self, engine: Engine[Any], vocabulary: Vocabulary, directory: Path | None = None
    ) -> None:
        super().__init__(engine, vocabulary, directory)
        self._chat: tuple[str, str | None] | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        """Copy and pickle a model as the base does, and a chatting one with its `system` text."""
        load, opened = super().__reduce__()
        if self._chat is None:
            return load, opened
        return _opened_to_chat, (load, opened, self._chat[1])

    @classmethod
    def load(
        cls,
        directory: Path | str | None = None,
        device: str = "auto",
        engine: EngineName = "auto",
    ) -> Generator:
        """Return the causal model in a directory.

        Raises `DataError` if it is not a model directory, `UsageError` for an unknown device or
        engine or a model with an encoder, `MissingExtraError` for an engine that needs a library
        that is not installed.
        """
        if directory is None:
            raise UsageError(
                "no causal model ships with the package: give the directory of one, such as "
                "`multistride convert smollm2 DIR` makes"
            )
        path = existing(directory)
        opened = opened_model(path, device, engine)
        if opened[0].config.encoder_layers:
            raise UsageError(
                f"{directory} has an encoder, so it translates: use translate, or name a causal "
                "model"
            )
        return cls.of_directory(opened, path, device, engine)

    def generate(
        self,
        prompts: Iterable[str],
        group_size: int | Literal["auto"] = 1,
        mode: Mode = "fast",
        *,
        chat: bool = False,
        system: str | None = None,
        **choices: Any,
    ) -> list[Translation]:
        """Continue prompts, `group_size` tokens per step; the n-th result belongs to the n-th
        prompt.

        `text` and `tokens` of a result are what was written, without the prompt. `chat` makes each
        prompt the turn of a user in the model's chat template, after `system` if that is given.
        `choices` are other fields of `decode.options.DecodeOptions`: `max_tokens`, `temperature`,
        `stop`, `batch_size` and so on; without `max_tokens` a text ends by itself, or where the
        context is full. A prompt that leaves no room in it has no text, and `problem` says so.
        Raises `UsageError` for choices that are unknown, out of range, or exclude each other.
        """
        texts, asked = listed(prompts), self._asked(chat, system)
        return asked.written(texts, asked._plan(group_size, mode, choices))

    def stream(
        self,
        text: str,
        group_size: int | Literal["auto"] = 1,
        mode: Mode = "fast",
        *,
        chat: bool = False,
        system: str | None = None,
        **choices: Any,
    ) -> Iterator[StreamedGroup]:
        """Continue one prompt and yield every group as soon as it is written; stop iterating to
        cancel.

        Joined, the parts are the text that `generate` returns for the same choices, of which `chat`
        and `system` are two. Raises its errors at once; `UsageError` also for beam search,
        `DataError` for a prompt that cannot be continued.
        """
        return super(Generator, self._asked(chat, system)).stream(text, group_size, mode, **choices)

    def translate(self, *arguments: Any, **choices: Any) -> NoReturn:
        """Raise `UsageError`: a causal model continues prompts."""
        raise UsageError("this is a causal model, which has no source to translate: use generate")

    def _asked(self, chat: bool, system: str | None) -> Generator:
        """Return the model as prompts are given to it: as they are, or as turns of a user."""
        if not isinstance(chat, bool):
            raise UsageError(f"chat is {chat!r}: give True or False")
        if system is not None and not chat:
            raise UsageError(
                "system was given, which belongs to a conversation: set chat, or leave it out"
            )
        return self.chatting(system) if chat else self

    def score(self, pairs: Pairs, group_size: int = 1) -> list[list[float] | None]:
        """Return the natural log-probability of every token of each text after its prompt, without
        EOS. A text may also be a list of tokens, as they were written.

        The n-th list belongs to the n-th pair; None where the context does not hold both. After an
        empty prompt the first token has no probability in a model that goes on from a first token
        (`config.start_symbol` is False), so its list is one shorter. Raises `UsageError` for a
        group size the checkpoint cannot write, and for tokens it does not have.
        """
        firsts, seconds = divided(pairs)
        prompts = self.encode(firsts)
        size, encode = scored_size(group_size), self.vocabulary.encode_continuation
        texts = tokens_of(seconds, encode, self.config.vocabulary_size)
        both = list(zip(prompts, texts, strict=True))
        fits = [len(prompt) + len(text) <= self.config.max_positions for prompt, text in both]
        fitting = [pair for pair, fit in zip(both, fits, strict=True) if fit and pair[1]]
        scores = iter(score_continuations(self.engine.model, fitting, size))
        found = (
            (next(scores) if text else []) if fit else None
            for (_, text), fit in zip(both, fits, strict=True)
        )
        return list(found)

    def chatting(self, system: str | None = None) -> Generator:
        """Return the model with every prompt as a user's turn, after the `system` text if given.

        It shares what is known and planned with this one, so it costs nothing. Raises `UsageError`
        for a model without a chat template, and for a `system` that is no text.
        """
        if system is not None and not isinstance(system, str):
            raise UsageError(f"system is of type {type(system).__name__}: give a text")
        template = self.vocabulary.chat_template
        if template is None:
            raise no_chat()
        talking = Generator(self.engine, self.vocabulary, self.directory)
        talking._chat, talking._opened = (template, system), self._opened
        talking.share(self)
        return talking

    def problem(self, tokens: Sequence[int]) -> str | None:
        """Return why a prompt of these tokens cannot be continued; None if it can."""
        room = self.config.max_positions
        if len(tokens) >= room:
            return (
                f"the prompt has {len(tokens):,} tokens, the context holds {room} with what "
                "follows: shorten it"
            )
        if not tokens and not self.config.start_symbol:
            return "the prompt is empty, and this model goes on from a first token: write something"
        return None

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the tokens of each prompt, those of a chat template included."""
        if self._chat is None:
            return self.vocabulary.encode_source(list(texts))
        template, system = self._chat
        before = [] if system is None else [{"role": "system", "content": system}]
        symbols = self.vocabulary.symbols()
        turns = [[*before, {"role": "user", "content": text}] for text in texts]
        return self.vocabulary.encode_rendered(
            [rendered(template, messages, symbols) for messages in turns]
        )

    def is_blank(self, text: str) -> bool:
        """Return False: even an empty prompt can be continued by most models."""
        return False


def _opened_to_chat(
    load: Callable[..., Generator], opened: tuple[Any, ...], system: str | None
) -> Generator:
    """Return a model that is opened again and chats."""
    return load(*opened).chatting(system)
