"""Tokenizers that another program made: of converted models.

Their special tokens have the ids they always had, and `tokenizer_config.json` says which. Texts are
encoded as that program did it, with whatever it puts in front of a text; only the end of sentence
is left to those who make batches.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cached_property
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from tokenizers import Tokenizer

from multistride.data.vocab import (
    TOKENIZER_CONFIG_FILE,
    TOKENIZER_FILE,
    Reader,
    Vocabulary,
    as_json,
)
from multistride.errors import DataError

UNWRITTEN = "\0"
"""What pieces begin with that a tokenizer reads but never writes: those of the other language."""

TARGET_FILE = "target_tokenizer.json"
"""The tokenizer of the target language, where it is one of its own."""

_TEMPLATE_SYMBOLS = (
    *("bos_token", "eos_token", "unk_token", "sep_token"),
    *("pad_token", "cls_token", "mask_token"),
)
"""What chat templates may name, where the tokenizer has it."""

ROLES = "multistride"
"""The key of `tokenizer_config.json` that makes a vocabulary a foreign one: its special tokens by
role."""


class TokenRoles(BaseModel):
    """The ids of the special tokens of a foreign tokenizer. Several may be one token."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    pad: int = Field(ge=0, description="fills batches")
    bos: int = Field(ge=0, description="what slots before the beginning of the sentence read")
    eos: int = Field(ge=0, description="end of sentence")
    mask: int = Field(ge=0, description="what lookahead slots read")
    unknown: int = Field(
        ge=0, description="stands for what the tokenizer cannot write; the mask where there is none"
    )


class ForeignVocabulary(Vocabulary):
    """A tokenizer with ids of its own for the special tokens: `pad`, `bos`, `eos`, `mask` and
    `unknown`.
    """

    def __init__(
        self, tokenizer: Tokenizer, settings: dict[str, Any], target: Tokenizer | None = None
    ) -> None:
        """`settings` is what `tokenizer_config.json` says; `target` encodes targets, where another
        tokenizer does.

        Raises `DataError` if the roles are not there or wrong.
        """
        try:
            roles = TokenRoles.model_validate(settings[ROLES])
        except (KeyError, ValidationError) as error:
            raise DataError(
                f"{TOKENIZER_CONFIG_FILE} does not say which tokens are special: convert the model "
                "again"
            ) from error
        self.pad, self.bos, self.eos, self.mask, self.unknown = roles.model_dump().values()
        self.settings = settings
        self._size = 1 + max(tokenizer.get_vocab(with_added_tokens=True).values())
        added = tokenizer.get_added_tokens_decoder().items()
        special = {token for token, piece in added if piece.special}
        self.special = frozenset(special | set(roles.model_dump().values()))
        if max(self.special) >= self._size:
            raise DataError(
                f"{TOKENIZER_CONFIG_FILE} names the special token {max(self.special)}, the "
                "tokenizer has "
                f"{self._size}: convert the model again"
            )
        self._chat_template = default_template(settings.get("chat_template"))
        self._take(tokenizer)
        # A tokenizer may append another end than the one that the model stops at.
        self._appended = {self.eos, tokenizer.token_to_id(str(settings.get("eos_token", "")))}
        self._target = None if target is None else ForeignVocabulary(target, settings)

    def __len__(self) -> int:
        return self._size

    def encode_source(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the tokens of whole texts as the model was trained to read them, with whatever its
        tokenizer puts in front, less a final end of sentence.

        What spells a special token is ordinary text. Raises `DataError` for a text that cannot be
        written as UTF-8.
        """
        return [self._without_end(tokens) for tokens in self._encoded(texts)]

    def encode_continuation(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the tokens of texts that follow others: without the symbols and the blank that the
        tokenizer puts before a whole text.

        Raises `DataError` for a text that cannot be written as UTF-8.
        """
        if not self._adds_blank:
            return self._encoded(texts, add_special_tokens=False)
        return [self._continuing(text) for text in texts]

    def encode_target(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the tokens of texts of the target language as the decoder writes them: by its own
        tokenizer, and behind its own language code, where there are such.

        Raises `DataError` for a text that cannot be written as UTF-8, and where a code is needed
        and no target language is named.
        """
        if self._target is not None:
            return self._target.encode_source(texts)
        sources, codes = self.encode_source(texts), [self._code("src_lang"), self._code("tgt_lang")]
        if codes[0] is None or any(tokens[:1] != codes[:1] for tokens in sources):
            return sources
        if codes[1] is None:
            raise DataError(
                "this model writes the code of a language first, and its directory does not say "
                f"which: name it in {TOKENIZER_CONFIG_FILE} (tgt_lang)"
            )
        return [[codes[1], *tokens[1:]] for tokens in sources]

    def symbols(self) -> dict[str, str]:
        """Return the special tokens by the names that chat templates have for them: those that the
        model's own tokenizer has.
        """
        names = [name for name in _TEMPLATE_SYMBOLS if isinstance(self.settings.get(name), str)]
        return {name: self.settings[name] for name in names}

    def contents(self, reader: Reader | None = None) -> dict[str, str]:
        """Return the text of each file of the vocabulary by name, as transformers reads them."""
        files = {
            TOKENIZER_FILE: self._serialized(),
            TOKENIZER_CONFIG_FILE: as_json(self.settings),
        }
        if self._target is not None:
            files[TARGET_FILE] = self._target._serialized()
        return files

    def digest(self) -> str:
        """SHA-256 of the tokenizer, and of that for targets; equal where every text gets the same
        tokens.
        """
        own = super().digest()
        return (
            own
            if self._target is None
            else hashlib.sha256((own + self._target.digest()).encode()).hexdigest()
        )

    @cached_property
    def _adds_blank(self) -> bool:
        """Return whether a whole text is read as if a blank stood before it."""
        [tokens] = self._encoded(["a"], add_special_tokens=False)
        return (self._tokenizer.id_to_token(tokens[0]) or "").startswith(("▁", "Ġ", " "))

    def _continuing(self, text: str) -> list[int]:
        """Return the tokens of a text behind another, found by putting one there."""
        for before in ("\n", ".", "a", "1"):
            [first], [both] = (
                self._encoded([part], add_special_tokens=False) for part in (before, before + text)
            )
            if (
                both[: len(first)] == first
                and self._tokenizer.decode(first).strip() == before.strip()
            ):
                return both[len(first) :]
        [tokens] = self._encoded([text], add_special_tokens=False)
        return tokens

    def _code(self, name: str) -> int | None:
        """Return the token of a language that `tokenizer_config.json` names."""
        piece = self.settings.get(name)
        token: int | None = self._tokenizer.token_to_id(piece) if isinstance(piece, str) else None
        return token

    def _without_end(self, tokens: list[int]) -> list[int]:
        return tokens[:-1] if tokens and tokens[-1] in self._appended else tokens

    def _piece(self, token: int) -> str:
        return super()._piece(token).removeprefix(UNWRITTEN)


def default_template(templates: Any) -> str | None:
    """Return the chat template for a conversation without tools: the only one, or of several the
    one that is named `default`.

    Raises `DataError` if there are several and none has that name.
    """
    if isinstance(templates, list):
        templates = {entry["name"]: entry["template"] for entry in templates}
    if not isinstance(templates, dict):
        return templates if isinstance(templates, str) else None
    if "default" not in templates:
        raise DataError(
            f"this model has the chat templates {', '.join(sorted(templates))} and none named "
            f"default: name it in {TOKENIZER_CONFIG_FILE} (chat_template)"
        )
    return str(templates["default"])
