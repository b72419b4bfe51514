"""Tokenizers of Marian models, made of their two SentencePiece files and the joint vocabulary of both languages.

SentencePiece cuts a text by the pieces of its own file (Kudo 2018, arXiv 1804.10959); Marian looks the pieces up in
`vocab.json`, which gives them other ids and holds the pieces of the target language too. So the tokenizer made here
has the pieces and ids of `vocab.json`: those of the source file with their scores there, all others with a score that
is never worth taking.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from multistride.errors import DataError, MissingExtraError

try:
    from sentencepiece import sentencepiece_model_pb2
except ImportError:  # marian_tokenizer says so
    sentencepiece_model_pb2 = None

NEVER = -1e4
"""The score of a piece that the source language does not have."""

_LANGUAGE = re.compile(r">>.+<<")


def marian_tokenizer(directory: Path, name: str) -> Tokenizer:
    """The tokenizer for sources of the Marian model in `directory`; what the model writes is decoded by the same.

    Raises `DataError` if a file is missing or the two languages have vocabularies of their own, and
    `MissingExtraError` without SentencePiece.
    """
    if sentencepiece_model_pb2 is None:
        raise MissingExtraError(f"{name} has a SentencePiece tokenizer, which needs pip install 'multistride[hf]'")
    if (directory / "target_vocab.json").is_file():
        raise DataError(f"{name} has two vocabularies, one a language; here both share one: it cannot be converted")
    try:
        ids: dict[str, int] = json.loads((directory / "vocab.json").read_text(encoding="utf-8"))
        source = sentencepiece_model_pb2.ModelProto.FromString((directory / "source.spm").read_bytes())
    except (OSError, ValueError) as error:
        raise DataError(f"{name} has no tokenizer that can be read ({error}): download it again") from error
    scores = {piece.piece: piece.score for piece in source.pieces}
    pieces = [(piece, scores.get(piece, NEVER)) for piece in sorted(ids, key=ids.__getitem__)]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=ids["<unk>"], byte_fallback=False))
    charsmap = source.normalizer_spec.precompiled_charsmap
    first = [normalizers.Precompiled(charsmap)] if charsmap else []
    tokenizer.normalizer = normalizers.Sequence(
        [*first, normalizers.Strip(), normalizers.Replace(Regex(" {2,}"), " ")]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")
    tokenizer.decoder = decoders.Metaspace(replacement="▁", prepend_scheme="always")
    special = [piece for piece in ("<pad>", "<unk>", "</s>") if piece in ids]
    tokenizer.add_special_tokens([AddedToken(piece, normalized=False, special=True) for piece in special])
    languages = sorted(filter(_LANGUAGE.fullmatch, ids), key=ids.__getitem__)
    tokenizer.add_tokens([AddedToken(piece, normalized=False, special=False, rstrip=True) for piece in languages])
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", ids["</s>"])])
    return tokenizer
