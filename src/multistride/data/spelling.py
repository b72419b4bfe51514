"""Spell tokens: the bytes that each of them adds to a text.

Rules about text need that, since a text can be cut into tokens in many ways. What a token adds is
what the decoder of its tokenizer makes of it, and that may depend on one thing: whether the text
begins with it. A Metaspace decoder drops the blanks of the first token, that of Llama the first
blank of the text, and a decoder of words sets a blank before every word but the first.

Decoders that look further, such as one that ends words with a suffix and drops the last, have no
such spelling.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection
from typing import Any, NamedTuple

from tokenizers import Tokenizer

from multistride.errors import UsageError

BYTES = 256
_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")
"""Pieces that stand for one byte of a character without a piece of its own."""

_BEFORE = "a"
"""A token to stand before another, so that the other does not begin the text."""

_BY_TOKEN = ("Metaspace", "Replace", "ByteFallback", "Strip", "WordPiece")
"""Decoders that change every token by itself, or also by whether it is the first."""


class Spellings(NamedTuple):
    """The bytes that each token adds in UTF-8, perhaps a part of a character: behind others, and
    first.
    """

    behind: list[bytes]
    first: list[bytes]


def spellings_of(tokenizer: Tokenizer, silent: Collection[int], size: int) -> Spellings:
    """Return how the tokens 0 to `size` - 1 are spelled; `silent` ones add nothing.

    Raises `UsageError` for a tokenizer whose tokens do not spell the text one after the other.
    """
    decoder = tokenizer.decoder
    steps = [] if decoder is None else _steps(json.loads(decoder.__getstate__()))
    kinds = [step["type"] for step in steps]
    added = tokenizer.get_added_tokens_decoder()
    pieces = [
        "" if token in silent else tokenizer.id_to_token(token) or "" for token in range(size)
    ]
    if kinds == ["ByteLevel"]:
        spelled = [
            piece.encode() if token in added else byte_level(piece)
            for token, piece in enumerate(pieces)
        ]
        return Spellings(spelled, spelled)
    if decoder is None:  # the library joins the pieces with blanks
        first = [piece.encode() for piece in pieces]
        return Spellings([b" " + piece if piece else b"" for piece in first], first)
    if not _spells(steps):
        raise UsageError(
            f"this vocabulary does not say what a token spells (its decoder is {', '.join(kinds)}),"
            " and rules about text need that: leave out banned texts, stop texts, spans and "
            "classifier.wide"
        )
    start = len(decoder.decode([_BEFORE]))

    def spelling(piece: str, first: bool) -> bytes:
        if not piece:
            return b""
        if "ByteFallback" in kinds and (stands := _BYTE.fullmatch(piece)):
            byte = int(stands[1], 16)
            if byte >= BYTES // 2:  # a part of a character, which alone decodes to U+FFFD
                return bytes([byte])
        whole = decoder.decode([piece] if first else [_BEFORE, piece])
        return str(whole if first else whole[start:]).encode()

    return Spellings(
        [spelling(piece, first=False) for piece in pieces],
        [spelling(piece, first=True) for piece in pieces],
    )


def _steps(stored: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the decoders of a sequence, of nested ones too, in the order of their work."""
    if stored["type"] != "Sequence":
        return [stored]
    return [step for part in stored["decoders"] for step in _steps(part)]


def _spells(steps: list[dict[str, Any]]) -> bool:
    """Return True if these decoders spell a token alike wherever it stands behind the first.

    Behind `ByteFallback` bytes in a row are one piece, and behind `Fuse` the text is: there only
    one character may be stripped from its beginning, which is one of the first token.
    """
    fused = bytes_joined = False
    for step in steps:
        kind = step["type"]
        if kind == "Fuse":
            fused = True
        elif kind == "Strip" and fused:
            if step["start"] > 1 or step["stop"] > 0:
                return False
        elif fused or kind not in _BY_TOKEN or (bytes_joined and kind in ("Strip", "WordPiece")):
            return False
        bytes_joined = bytes_joined or kind == "ByteFallback"
    return True


def byte_level(piece: str) -> bytes:
    """Return the bytes of a byte-level piece; of one that is none its text, as the library does."""
    if all(symbol in BYTE_OF_SYMBOL for symbol in piece):
        return bytes(BYTE_OF_SYMBOL[symbol] for symbol in piece)
    return piece.encode()


def _byte_symbols() -> dict[str, int]:
    """Return the byte that each character of a byte-level piece stands for.

    Bytes that are visible in Latin-1 stand for themselves; the others follow from U+0100 on.
    """
    visible = [
        byte for byte in range(BYTES) if 0x21 <= byte <= 0x7E or (byte >= 0xA1 and byte != 0xAD)
    ]
    hidden = [byte for byte in range(BYTES) if byte not in visible]
    symbols = {chr(byte): byte for byte in visible}
    symbols.update({chr(BYTES + place): byte for place, byte in enumerate(hidden)})
    return symbols


BYTE_OF_SYMBOL = _byte_symbols()
"""The byte that each character of a byte-level piece stands for."""
