"""Text to tokens and back.

A `Vocabulary` is one tokenizer shared by both sides of the data. It comes in two kinds. `bpe` is
byte-pair encoding (Sennrich et al. 2016, https://aclanthology.org/P16-1162) over UTF-8 bytes, so
every text can be written and comes back exactly. `words` has one token for each blank-separated
word, for data that already is a list of symbols, such as letters and phonemes.

The five special tokens have the same ids in every vocabulary. No text can spell one: "</s>" in a
sentence is four ordinary characters.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from multistride.errors import DataError, UsageError
from multistride.files import replacing_file, write_json
from multistride.untrusted import MOST_TOKENIZER, read_text

VocabularyKind = Literal["bpe", "words"]

SPECIAL_PIECES = ("<pad>", "<s>", "</s>", "<mask>", "<unk>")
TOKENIZER_FILE = "tokenizer.json"
TOKENIZER_CONFIG_FILE = "tokenizer_config.json"
VOCABULARY_FILES = (TOKENIZER_FILE, TOKENIZER_CONFIG_FILE)

_TRAINING_CHUNK = 1000
_BYTES = 256
# The trainer of words gives a new id to a special token that it meets as a word.
_SPECIAL_WORD = re.compile(rf"(?<!\S)(?:{'|'.join(SPECIAL_PIECES)})(?!\S)")


class Vocabulary:
    """The tokens a model reads and writes.

    `pad`, `bos`, `eos`, `mask` and `unknown` are the ids 0 to 4.
    Raises `DataError` when `tokenizer` has other ids for the special tokens.
    """

    pad = 0
    bos = 1
    eos = 2
    mask = 3
    unknown = 4

    def __init__(self, tokenizer: Tokenizer) -> None:
        for token, piece in enumerate(SPECIAL_PIECES):
            found = tokenizer.token_to_id(piece)
            if found != token:
                raise DataError(
                    f"the tokenizer gives {piece} the id {found}; it must be {token}: "
                    "use a tokenizer written by `multistride prepare`"
                )
        self._take(tokenizer)

    def _take(self, tokenizer: Tokenizer) -> None:
        # Not stored in tokenizer.json, so it is set again for every loaded tokenizer: without it
        # a sentence that contains "</s>" would end in its middle.
        tokenizer.encode_special_tokens = True
        self._tokenizer = tokenizer
        self._byte_level = isinstance(tokenizer.decoder, decoders.ByteLevel)

    def __len__(self) -> int:
        return int(self._tokenizer.get_vocab_size(with_added_tokens=True))

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """The tokens of each text, without any special token (except `unknown` in a words
        vocabulary).

        Raises `DataError` when a text cannot be written as UTF-8.
        """
        try:
            encodings = self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        except TypeError as error:
            raise DataError(unencodable(texts)) from error
        return [self._without_special(encoding.ids) for encoding in encodings]

    @property
    def chat_template(self) -> str | None:
        """The Jinja template that makes one text of a conversation; None if there is none."""
        return None

    def encode_rendered(self, texts: Sequence[str]) -> list[list[int]]:
        """The tokens of texts that a chat template wrote; in those special tokens are spelled
        out.
        """
        raise DataError(
            "this vocabulary has no chat template, so nothing can be written by it: encode plain text"
        )

    def symbols(self) -> dict[str, str]:
        """The special tokens as chat templates name them: `bos_token` and so on, with their
        spelling.
        """
        roles = {"pad_token": self.pad, "bos_token": self.bos, "eos_token": self.eos}
        return {
            name: str(self._tokenizer.id_to_token(token) or "") for name, token in roles.items()
        }

    def encode_targets(self, texts: Sequence[str]) -> list[list[int]]:
        """`encode` for texts of the target language: the same, unless a converted model has two
        tokenizers.
        """
        return self.encode(texts)

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of one sequence of tokens; special tokens are dropped.

        Bytes that are not UTF-8, which a model may write, become U+FFFD.
        """
        return str(
            self._tokenizer.decode([int(token) for token in tokens], skip_special_tokens=True)
        )

    def decode_all(self, sequences: Sequence[Sequence[int]]) -> list[str]:
        """`decode` for many sequences at once."""
        as_integers = [[int(token) for token in tokens] for tokens in sequences]
        return list(self._tokenizer.decode_batch(as_integers, skip_special_tokens=True))

    def pieces(self, tokens: Sequence[int]) -> list[str]:
        r"""What each token stands for, for a person to read; special tokens are shown by name.

        A token that holds a part of a character is shown as its bytes, like `\xe4\xb8`.
        Raises `DataError` for a token outside the vocabulary.
        """
        return [self._piece(int(token)) for token in tokens]

    @cached_property
    def spellings(self) -> list[bytes]:
        """What each token adds to a text, in UTF-8 (perhaps a part of a character); special tokens
        add nothing.

        In a words vocabulary every word brings the blank before it. Raises `UsageError` for a
        tokenizer of another kind, whose tokens do not spell the text one after the other.
        """
        if not self._byte_level and not isinstance(self._tokenizer.model, models.WordLevel):
            raise UsageError(
                "this vocabulary does not say what a token spells, and rules about text need that: "
                "leave out banned texts, stop texts, spans and classifier.wide"
            )
        names = (self._tokenizer.id_to_token(token) or "" for token in range(len(self)))
        pieces = ["" if self._is_special(token) else name for token, name in enumerate(names)]
        if self._byte_level:
            return [bytes(_BYTE_OF_SYMBOL[symbol] for symbol in piece) for piece in pieces]
        return [f" {piece}".encode() if piece else b"" for piece in pieces]

    def spelled(self, tokens: Sequence[int]) -> bytes:
        """The text of tokens in UTF-8, before `decode` replaces what is none. Raises as `spellings`
        does.
        """
        text = b"".join(self.spellings[token] for token in tokens)
        return text if self._byte_level else text.removeprefix(b" ")

    def digest(self) -> str:
        """SHA-256 of the tokenizer; equal for two vocabularies that give every text the same
        tokens.
        """
        return hashlib.sha256(self._serialized().encode()).hexdigest()

    def save(self, directory: Path | str) -> None:
        """Write `tokenizer.json` and `tokenizer_config.json`, which transformers can also load."""
        directory = Path(directory)
        with replacing_file(directory / TOKENIZER_FILE) as temporary:
            temporary.write_text(self._serialized(), encoding="utf-8", newline="\n")
        write_json(directory / TOKENIZER_CONFIG_FILE, _transformers_config())

    @classmethod
    def load(cls, directory: Path | str) -> Vocabulary:
        """Read the vocabulary that `save` wrote.

        Raises `DataError` when `tokenizer.json` is missing, broken, or has other special tokens.
        """
        return cls(read_tokenizer(directory))

    def _serialized(self) -> str:
        return str(self._tokenizer.to_str(pretty=True)) + "\n"

    def _without_special(self, tokens: list[int]) -> list[int]:
        # In a words vocabulary the word "<s>" finds the special token of that name.
        if not tokens or min(tokens) >= self.unknown:
            return tokens
        return [max(token, self.unknown) for token in tokens]

    def _piece(self, token: int) -> str:
        piece = self._tokenizer.id_to_token(token) if token >= 0 else None
        if piece is None:
            raise DataError(
                f"token {token} is outside the vocabulary, which has 0 to {len(self) - 1}: check its origin"
            )
        if self._is_special(token) or not self._byte_level:
            return str(piece)
        return bytes(_BYTE_OF_SYMBOL[symbol] for symbol in piece).decode(
            "utf-8", errors="backslashreplace"
        )

    def _is_special(self, token: int) -> bool:
        return token < len(SPECIAL_PIECES)


def read_tokenizer(directory: Path | str, name: str = TOKENIZER_FILE) -> Tokenizer:
    """The tokenizer in a directory. Raises `DataError` when its file is missing or broken."""
    path = Path(directory) / name
    try:
        text = read_text(path, MOST_TOKENIZER, "give a directory written by `multistride prepare`")
    except DataError as error:
        raise DataError(f"no vocabulary in {directory}: cannot read {name}: {error}") from error
    try:
        tokenizer = Tokenizer.from_str(text)
    except Exception as error:  # the tokenizers library raises nothing more precise
        reason = " ".join(str(error).split())
        raise DataError(
            f"{path} is not a tokenizer: {reason}; restore it or prepare the data again"
        ) from error
    return tokenizer


def train_vocabulary(texts: Iterable[str], size: int, kind: VocabularyKind) -> Vocabulary:
    """Learn a vocabulary of at most `size` tokens, the special ones included, from `texts`.

    The same texts give the same vocabulary, byte for byte. A small corpus may fill less than
    `size`. Raises `UsageError` when `size` cannot hold what every vocabulary of this kind must
    have.
    """
    smallest = len(SPECIAL_PIECES) + (_BYTES if kind == "bpe" else 1)
    if size < smallest:
        raise UsageError(
            f"vocabulary size {size} is too small: a {kind} vocabulary needs {smallest} or more"
        )
    if kind == "bpe":
        tokenizer, trainer = _untrained_bpe(size)
    else:
        tokenizer, trainer = _untrained_words(size)
        texts = (_SPECIAL_WORD.sub("", text) for text in texts)
    tokenizer.train_from_iterator(_chunks(texts), trainer)
    return Vocabulary(tokenizer)


def _untrained_bpe(size: int) -> tuple[Any, Any]:
    tokenizer = Tokenizer(models.BPE())
    # The regular expression keeps letters and punctuation apart, so no merge can build "</s>".
    # Chinese has no blanks, but its runs end at punctuation and stay short enough.
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=list(SPECIAL_PIECES),
        initial_alphabet=sorted(_BYTE_OF_SYMBOL),
        show_progress=False,
    )
    return tokenizer, trainer


def _untrained_words(size: int) -> tuple[Any, Any]:
    tokenizer = Tokenizer(models.WordLevel(unk_token=SPECIAL_PIECES[Vocabulary.unknown]))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    trainer = trainers.WordLevelTrainer(
        vocab_size=size, special_tokens=list(SPECIAL_PIECES), show_progress=False
    )
    return tokenizer, trainer


def _chunks(texts: Iterable[str]) -> Iterator[list[str]]:
    iterator = iter(texts)
    while chunk := list(islice(iterator, _TRAINING_CHUNK)):
        yield chunk


def _byte_symbols() -> dict[str, int]:
    """The byte that each character of a byte-level piece stands for.

    Bytes that are visible in Latin-1 stand for themselves; the others follow from U+0100 on.
    """
    visible = [
        byte for byte in range(_BYTES) if 0x21 <= byte <= 0x7E or (byte >= 0xA1 and byte != 0xAD)
    ]
    hidden = [byte for byte in range(_BYTES) if byte not in visible]
    symbols = {chr(byte): byte for byte in visible}
    symbols.update({chr(_BYTES + place): byte for place, byte in enumerate(hidden)})
    return symbols


_BYTE_OF_SYMBOL = _byte_symbols()


def unencodable(texts: Sequence[str]) -> str:
    """Why the texts cannot be encoded, as a person can act on it."""
    for number, text in enumerate(texts):
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            return (
                f"text {number} cannot be written as UTF-8: character {error.start} is a lone surrogate, "
                f"U+{ord(text[error.start]):04X}; remove it"
            )
    return "every text must be a string; check what was given"


def _transformers_config() -> dict[str, Any]:
    pad, bos, eos, mask, unknown = SPECIAL_PIECES
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "pad_token": pad,
        "bos_token": bos,
        "eos_token": eos,
        "mask_token": mask,
        "unk_token": unknown,
        "padding_side": "right",
        "clean_up_tokenization_spaces": False,
        "split_special_tokens": True,
    }
