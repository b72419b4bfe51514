"""Tokenizers of Marian models, made of their two SentencePiece files and the joint vocabulary of
both languages.

SentencePiece cuts a text by the pieces of its own file (Kudo 2018, arXiv 1804.10959); Marian looks
the pieces up in `vocab.json`, which gives them other ids and holds the pieces of the other language
too. So the tokenizers made here, one for each language, have the ids of `vocab.json`; pieces that
only the other language has begin with a character that no text contains, so they are read but never
written. Single characters are written where nothing else is there for them; Marian does so too, but
makes one unknown token of several such characters in a row. Marian's clean-up of punctuation is
left out, as it is in transformers without sacremoses.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
)

from multistride.data.foreign import UNWRITTEN
from multistride.errors import DataError, MissingExtraError
from multistride.untrusted import read_bytes, read_object

try:
    from google.protobuf.message import DecodeError
    from sentencepiece import sentencepiece_model_pb2
except ImportError:  # marian_tokenizer says so
    sentencepiece_model_pb2 = None
    DecodeError = ValueError

SIDES = {"source": "source.spm", "target": "target.spm"}

LAST_RESORT = -1e3
"""The score of a character that only the other language has."""

_SPECIAL = ("<pad>", "<unk>", "</s>")
_LANGUAGE = re.compile(r">>.+<<")


def marian_tokenizer(directory: Path, name: str, side: str = "source") -> Tokenizer:
    """Return the tokenizer for one side of the Marian model in `directory`; either decodes the
    tokens of both.

    Raises `DataError` if a file is missing or the two languages have vocabularies of their own, and
    `MissingExtraError` without SentencePiece.
    """
    if sentencepiece_model_pb2 is None:
        raise MissingExtraError(
            f"{name} has a SentencePiece tokenizer, which needs pip install 'multistride[hf]'"
        )
    if (directory / "target_vocab.json").is_file():
        raise DataError(
            f"{name} has two vocabularies, one a language; here both share one: it cannot be "
            "converted"
        )
    try:
        ids: dict[str, int] = read_object(directory / "vocab.json")
        model = sentencepiece_model_pb2.ModelProto.FromString(read_bytes(directory / SIDES[side]))
        if not all(type(number) is int and 0 <= number < 1 << 24 for number in ids.values()):
            raise ValueError("its entries have no numbers")
        if missing := [piece for piece in ("<unk>", "</s>") if piece not in ids]:
            raise ValueError(f"it has no {missing[0]}")
        tokenizer = _cutting(ids, model)
    except (DataError, ValueError, DecodeError) as error:
        raise DataError(
            f"{name} has no tokenizer that can be read ({error}): download it again"
        ) from error
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")
    words = decoders.Metaspace(replacement="▁", prepend_scheme="always")
    tokenizer.decoder = decoders.Sequence([decoders.Replace(UNWRITTEN, ""), words])
    special = [piece for piece in _SPECIAL if piece in ids]
    tokenizer.add_special_tokens(
        [AddedToken(piece, normalized=False, special=True) for piece in special]
    )
    languages = sorted(filter(_LANGUAGE.fullmatch, ids), key=ids.__getitem__)
    tokenizer.add_tokens(
        [AddedToken(piece, normalized=False, special=False, rstrip=True) for piece in languages]
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", ids["</s>"])]
    )
    return tokenizer


def _cutting(ids: dict[str, int], model: Any) -> Tokenizer:
    """Return what cuts a text into pieces. Raises `ValueError` for what the library refuses."""
    try:
        tokenizer = Tokenizer(
            models.Unigram(_pieces(ids, model), unk_id=ids["<unk>"], byte_fallback=False)
        )
        tokenizer.normalizer = _normalizer(model)
    except Exception as error:  # the Rust library raises nothing narrower
        raise ValueError(" ".join(str(error).split())) from error
    return tokenizer


def _pieces(ids: dict[str, int], model: Any) -> list[tuple[str, float]]:
    """Pieces and scores in the order of the ids; special tokens and language tags have none."""
    scores = {piece.piece: piece.score for piece in model.pieces}

    def entry(piece: str) -> tuple[str, float]:
        if piece in scores or piece in _SPECIAL or _LANGUAGE.fullmatch(piece):
            return piece, scores.get(piece, 0.0)
        if len(piece) == 1:
            return piece, LAST_RESORT
        return UNWRITTEN + piece, 0.0

    return [entry(piece) for piece in sorted(ids, key=ids.__getitem__)]


def _normalizer(model: Any) -> Any:
    """SentencePiece's own table of characters, without what would spell a piece that is never
    written.
    """
    charsmap = model.normalizer_spec.precompiled_charsmap
    first = [normalizers.Precompiled(charsmap)] if charsmap else []
    blanks = [normalizers.Strip(), normalizers.Replace(Regex(" {2,}"), " ")]
    return normalizers.Sequence([*first, normalizers.Replace(UNWRITTEN, ""), *blanks])
