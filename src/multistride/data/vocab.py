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
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from multistride.data.spelling import (
    BYTE_OF_SYMBOL,
    BYTES,
    Spellings,
    byte_level,
    spellings_of,
)
from multistride.errors import DataError, UsageError
from multistride.untrusted import MOST_TOKENIZER, read_text

VocabularyKind = Literal["bpe", "words"]
Reader = Literal["translator", "causal"]
"""The kind of model that a tokenizer lies beside."""

SPECIAL_PIECES = ("<pad>", "<s>", "</s>", "<mask>", "<unk>")
_NAMED = ("pad_token", "bos_token", "eos_token", "mask_token", "unk_token")
TOKENIZER_FILE = "tokenizer.json"
TOKENIZER_CONFIG_FILE = "tokenizer_config.json"
VOCABULARY_FILES = (TOKENIZER_FILE, TOKENIZER_CONFIG_FILE)

_TRAINING_CHUNK = 1000
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

    special: frozenset[int] = frozenset(range(5))
    """The tokens that stand for no text: `decode` drops them, and no text can spell one."""

    def __init__(self, tokenizer: Tokenizer, chat_template: str | None = None) -> None:
        for token, piece in enumerate(SPECIAL_PIECES):
            found = tokenizer.token_to_id(piece)
            if found != token:
                raise DataError(
                    f"the tokenizer gives {piece} the id {found}; it must be {token}: "
                    "use a tokenizer written by `multistride prepare`"
                )
        self._chat_template = chat_template
        self._take(_without_ends(tokenizer))

    def _take(self, tokenizer: Tokenizer) -> None:
        # Not stored in tokenizer.json, so it is set again for every loaded tokenizer: without it
        # a sentence that contains "</s>" would end in its middle.
        tokenizer.encode_special_tokens = True
        # Programs that padded a batch store that too, and every batch of ours would be padded.
        tokenizer.no_padding()
        tokenizer.no_truncation()
        self._tokenizer = tokenizer
        self._pieces: dict[int, str] = {}
        self._byte_level = isinstance(tokenizer.decoder, decoders.ByteLevel)
        self._added = {
            token: added.content for token, added in tokenizer.get_added_tokens_decoder().items()
        }

    def __repr__(self) -> str:
        return f"{type(self).__name__}({len(self):,} tokens)"

    def __len__(self) -> int:
        return int(self._tokenizer.get_vocab_size(with_added_tokens=True))

    def encode_source(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the tokens of whole texts as the model reads them, less a final end of sentence:
        sources of a translator, prompts of a causal model.

        Raises `DataError` for a text that cannot be written as UTF-8.
        """
        return [self._without_special(tokens) for tokens in self._encoded(texts)]

    def encode_continuation(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the tokens of texts that follow others: nothing stands before them or behind.

        Raises `DataError` for a text that cannot be written as UTF-8.
        """
        return self.encode_source(texts)

    def encode_target(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the tokens of whole texts as the decoder of a translator writes them, less a final
        end of sentence: in the target language, where that has tokens of its own.

        Raises `DataError` for a text that cannot be written as UTF-8.
        """
        return self.encode_source(texts)

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Return `encode_source`, under its former name."""
        return self.encode_source(texts)

    @property
    def chat_template(self) -> str | None:
        """Return the Jinja template that makes one text of a conversation; None if there is
        none.
        """
        return self._chat_template

    def encode_rendered(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the tokens of texts that a chat template wrote; in those special tokens are
        spelled out, and nothing is put in front or behind.

        Raises `DataError` for a text that cannot be written as UTF-8.
        """
        return self._encoded(texts, self._rendered, add_special_tokens=False)

    @cached_property
    def _rendered(self) -> Tokenizer:
        """The tokenizer of rendered texts: one of its own, since others encode meanwhile."""
        tokenizer = Tokenizer.from_str(self._tokenizer.to_str())
        tokenizer.encode_special_tokens = False
        return tokenizer

    def symbols(self) -> dict[str, str]:
        """Return the special tokens by the names that chat templates have for them."""
        return dict(zip(_NAMED, SPECIAL_PIECES, strict=True))

    def decode(self, tokens: Sequence[int]) -> str:
        """Return the text of one sequence of tokens; special tokens are dropped.

        Bytes that are not UTF-8, which a model may write, become U+FFFD.
        """
        return str(
            self._tokenizer.decode([int(token) for token in tokens], skip_special_tokens=True)
        )

    def decode_all(self, sequences: Sequence[Sequence[int]]) -> list[str]:
        """Return the text of each of many sequences, as `decode` does."""
        as_integers = [[int(token) for token in tokens] for tokens in sequences]
        return list(self._tokenizer.decode_batch(as_integers, skip_special_tokens=True))

    def pieces(self, tokens: Sequence[int]) -> list[str]:
        r"""Return what each token stands for, for a person to read; special tokens are shown by
        name.

        A token that holds a part of a character is shown as its bytes, like `\xe4\xb8`.
        Raises `DataError` for a token outside the vocabulary.
        """
        pieces, known = [], self._pieces
        for token in tokens:
            if (piece := known.get(token)) is None:
                piece = known[token] = self._piece(int(token))
            pieces.append(piece)
        return pieces

    @property
    def spellings(self) -> list[bytes]:
        """Return what each token adds to a text behind others, in UTF-8 (perhaps a part of a
        character); special tokens add nothing, tokens that were added to the vocabulary their own
        name.

        A token that begins a word brings the blank before it, where words are not cut from blanks.
        Raises `UsageError` for a tokenizer whose tokens do not spell the text one after the other.
        """
        return self._spellings.behind

    @property
    def beginnings(self) -> list[bytes]:
        """Return what each token spells where a text begins with it: mostly without the blank that
        `spellings` has. Raises as that does.
        """
        return self._spellings.first

    @cached_property
    def _spellings(self) -> Spellings:
        dropped = {
            token
            for token, added in self._tokenizer.get_added_tokens_decoder().items()
            if added.special
        }
        # Some tokenizers do not mark the unknown token as special, and then it is shown.
        shown = {self.unknown} - dropped - {self.pad, self.bos, self.eos, self.mask}
        return spellings_of(self._tokenizer, self.special - shown, len(self))

    def begun(self, tokens: Sequence[int]) -> int:
        """Return the index of the token that the text begins with; their number if all of them are
        special. Raises as `spellings` does.
        """
        spellings = self.spellings
        return next((index for index, token in enumerate(tokens) if spellings[token]), len(tokens))

    def spelled(self, tokens: Sequence[int]) -> bytes:
        """Return the text of tokens in UTF-8, before `decode` replaces what is none.

        Raises as `spellings` does.
        """
        begun = self.begun(tokens)
        first = [self.beginnings[token] for token in tokens[begun : begun + 1]]
        return b"".join([*first, *(self.spellings[token] for token in tokens[begun + 1 :])])

    def spelled_end(self, tokens: Sequence[int], length: int) -> bytes:
        """Return the last `length` bytes of `spelled`, or all of them, and look at no other token.

        Raises as `spellings` does.
        """
        begun, spellings, pieces = self.begun(tokens), self.spellings, list[bytes]()
        index, needed = len(tokens), length
        while needed > 0 and index > begun:
            index -= 1
            table = self.beginnings if index == begun else spellings
            pieces.append(table[tokens[index]])
            needed -= len(pieces[-1])
        text = b"".join(reversed(pieces))
        return text[max(0, len(text) - length) :]

    def digest(self) -> str:
        """SHA-256 of the tokenizer; equal for two vocabularies that give every text the same
        tokens.
        """
        return hashlib.sha256(self._serialized().encode()).hexdigest()

    def contents(self, reader: Reader | None = None) -> dict[str, str]:
        """Return the text of each file of the vocabulary by name; transformers can read them too.

        In the directory of a model, `reader` says of which kind it is: for a translator
        transformers appends EOS to sources and labels, as training here does; for a causal model
        EOS can be spelled, since a text that trains it has one and a prompt has not.
        """
        tokenizer = Tokenizer.from_str(self._serialized())
        if reader == "translator":
            end = SPECIAL_PIECES[self.eos]
            tokenizer.post_processor = processors.TemplateProcessing(
                single=f"$A {end}", special_tokens=[(end, self.eos)]
            )
        config = _transformers_config(split_special=reader != "causal")
        if self._chat_template is not None:
            config["chat_template"] = self._chat_template
        return {
            TOKENIZER_FILE: str(tokenizer.to_str(pretty=True)) + "\n",
            TOKENIZER_CONFIG_FILE: as_json(config),
        }

    @classmethod
    def load(cls, directory: Path | str, chat_template: str | None = None) -> Vocabulary:
        """Read the vocabulary that `save_vocabulary` wrote.

        Raises `DataError` when `tokenizer.json` is missing, broken, or has other special tokens.
        """
        return cls(read_tokenizer(directory), chat_template)

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
                f"token {token} is outside the vocabulary, which has 0 to {len(self) - 1}: check "
                "its origin"
            )
        if token in self.special or token in self._added or not self._byte_level:
            return str(piece)
        return byte_level(piece).decode("utf-8", errors="backslashreplace")

    def _encoded(
        self,
        texts: Sequence[str],
        tokenizer: Tokenizer | None = None,
        add_special_tokens: bool = True,
    ) -> list[list[int]]:
        try:
            encodings = (tokenizer or self._tokenizer).encode_batch_fast(
                list(texts), add_special_tokens=add_special_tokens
            )
        except TypeError as error:
            raise DataError(unencodable(texts)) from error
        except Exception as error:  # the tokenizers library raises nothing more precise
            raise DataError(
                f"the tokenizer cannot encode a text ({' '.join(str(error).split())}): its "
                f"{TOKENIZER_FILE} is broken: restore it, or convert the model again"
            ) from error
        return [list(encoding.ids) for encoding in encodings]


def _without_ends(tokenizer: Tokenizer) -> Tokenizer:
    """Return a tokenizer that puts no EOS behind a text, which is there for transformers alone."""
    if tokenizer.post_processor is None:
        return tokenizer
    stored = json.loads(tokenizer.to_str())
    stored["post_processor"] = None
    return Tokenizer.from_str(json.dumps(stored))


def as_json(value: Any) -> str:
    """Return the text of a JSON file."""
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


def read_tokenizer(directory: Path | str, name: str = TOKENIZER_FILE) -> Tokenizer:
    """Return the tokenizer in a directory.

    Raises `DataError` when its file is missing or broken.
    """
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
    ids = tokenizer.get_vocab(with_added_tokens=True).values()
    if max(ids, default=0) > 2 * len(ids) + 1024:  # the library takes memory for all in between
        raise DataError(
            f"{path} is not a tokenizer: {len(ids)} entries have numbers up to {max(ids)}; "
            "restore it or prepare the data again"
        )
    return tokenizer


def train_vocabulary(texts: Iterable[str], size: int, kind: VocabularyKind) -> Vocabulary:
    """Learn a vocabulary of at most `size` tokens, the special ones included, from `texts`.

    The same texts give the same vocabulary, byte for byte. A small corpus may fill less than
    `size`. Raises `UsageError` when `size` cannot hold what every vocabulary of this kind must
    have.
    """
    smallest = len(SPECIAL_PIECES) + (BYTES if kind == "bpe" else 1)
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
        initial_alphabet=sorted(BYTE_OF_SYMBOL),
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


def unencodable(texts: Sequence[str]) -> str:
    """Return why the texts cannot be encoded, as a person can act on it."""
    for number, text in enumerate(texts):
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            which = f"text {number}" if len(texts) > 1 else "the text"
            return (
                f"{which} cannot be written as UTF-8: character {error.start} is a lone "
                "surrogate, "
                f"U+{ord(text[error.start]):04X}; remove it"
            )
    return "every text must be a string; check what was given"


def _transformers_config(split_special: bool) -> dict[str, Any]:
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        **dict(zip(_NAMED, SPECIAL_PIECES, strict=True)),
        "padding_side": "right",
        "clean_up_tokenization_spaces": False,
        "split_special_tokens": split_special,
        "model_input_names": ["input_ids", "attention_mask"],
    }
