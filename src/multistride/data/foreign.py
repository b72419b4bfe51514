"""Tokenizers that another program made: of converted models.

Their special tokens have the ids they always had, and `tokenizer_config.json` says which. Texts are
encoded as that program did it, with whatever it puts in front of a text; only the end of sentence
is left to those who make batches.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from tokenizers import Tokenizer

from multistride.data.vocab import (
    TOKENIZER_CONFIG_FILE,
    TOKENIZER_FILE,
    Vocabulary,
    read_tokenizer,
    unencodable,
)
from multistride.errors import DataError
from multistride.files import replacing_file, write_json
from multistride.untrusted import read_object

UNWRITTEN = "\0"
"""What pieces begin with that a tokenizer reads but never writes: those of the other language."""

TARGET_FILE = "target_tokenizer.json"
"""The tokenizer of the target language, where it is one of its own."""

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
                f"{TOKENIZER_CONFIG_FILE} does not say which tokens are special: convert the model again"
            ) from error
        self.pad, self.bos, self.eos, self.mask, self.unknown = roles.model_dump().values()
        self.settings = settings
        self._size = 1 + max(tokenizer.get_vocab(with_added_tokens=True).values())
        self._special = set(tokenizer.get_added_tokens_decoder()) | set(roles.model_dump().values())
        if max(self._special) >= self._size:
            raise DataError(
                f"{TOKENIZER_CONFIG_FILE} names the special token {max(self._special)}, the tokenizer has "
                f"{self._size}: convert the model again"
            )
        self._take(tokenizer)
        self._target = None if target is None else ForeignVocabulary(target, settings)

    def __len__(self) -> int:
        return self._size

    @property
    def chat_template(self) -> str | None:
        """The Jinja template that makes one text of a conversation; None if the model has none."""
        template = self.settings.get("chat_template")
        return template if isinstance(template, str) else None

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """The tokens of each text as the model was trained to read them, less a final end of
        sentence.

        What spells a special token is ordinary text. Raises `DataError` when a text cannot be
        written as UTF-8.
        """
        return [self._without_end(tokens) for tokens in self._encoded(texts)]

    def encode_targets(self, texts: Sequence[str]) -> list[list[int]]:
        """`encode` for texts of the target language."""
        return self.encode(texts) if self._target is None else self._target.encode(texts)

    def encode_rendered(self, texts: Sequence[str]) -> list[list[int]]:
        """The tokens of texts in which special tokens are spelled out, as a chat template writes
        them.

        Nothing is put in front of them or behind. Raises `DataError` when a text cannot be written
        as UTF-8.
        """
        self._tokenizer.encode_special_tokens = False
        try:
            return self._encoded(texts, add_special_tokens=False)
        finally:
            self._tokenizer.encode_special_tokens = True

    def save(self, directory: Path | str) -> None:
        """Write `tokenizer.json` and `tokenizer_config.json`, which transformers can also load."""
        directory = Path(directory)
        self.tokenizer_to(directory / TOKENIZER_FILE)
        write_json(directory / TOKENIZER_CONFIG_FILE, self.settings)
        if self._target is not None:
            self._target.tokenizer_to(directory / TARGET_FILE)

    def tokenizer_to(self, path: Path) -> None:
        """Write the tokenizer alone."""
        with replacing_file(path) as temporary:
            temporary.write_text(self._serialized(), encoding="utf-8", newline="\n")

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

    def _encoded(self, texts: Sequence[str], add_special_tokens: bool = True) -> list[list[int]]:
        try:
            encodings = self._tokenizer.encode_batch_fast(
                list(texts), add_special_tokens=add_special_tokens
            )
        except TypeError as error:
            raise DataError(unencodable(texts)) from error
        return [list(encoding.ids) for encoding in encodings]

    def _without_end(self, tokens: list[int]) -> list[int]:
        return tokens[:-1] if tokens[-1:] == [self.eos] else tokens

    def _piece(self, token: int) -> str:
        return super()._piece(token).removeprefix(UNWRITTEN)

    def _is_special(self, token: int) -> bool:
        return token in self._special


def load_vocabulary(directory: Path | str) -> Vocabulary:
    """The vocabulary in a directory: one of ours, or that of a converted model.

    Raises `DataError` when a file is missing or broken, or has other special tokens.
    """
    settings = _settings(Path(directory) / TOKENIZER_CONFIG_FILE)
    if ROLES not in settings:
        return Vocabulary.load(directory)
    target = (
        read_tokenizer(directory, TARGET_FILE)
        if (Path(directory) / TARGET_FILE).is_file()
        else None
    )
    return ForeignVocabulary(read_tokenizer(directory), settings, target)


def _settings(path: Path) -> dict[str, Any]:
    """What the file says; nothing if it is not there, since our own vocabularies do not need it."""
    try:
        return read_object(path)
    except DataError:
        return {}
