"""The tokenizer comes along: its ids stay, its special tokens get the roles they have here, and a
mask is added.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from tokenizers import AddedToken, Tokenizer, pre_tokenizers, processors

from multistride.convert.checkpoint import Checkpoint
from multistride.convert.sentencepiece import marian_tokenizer
from multistride.data.foreign import ROLES, ForeignVocabulary
from multistride.errors import DataError, UsageError
from multistride.model.config import TransformerConfig

MASK = "<mask>"


class Languages(NamedTuple):
    """The languages of sources and targets, by the names their tokenizer has (`eng_Latn`)."""

    source: str | None = None
    target: str | None = None


UNNAMED = Languages()
"""The languages that the files of a checkpoint name."""

KEPT_SETTINGS = (
    "pad_token",
    "bos_token",
    "eos_token",
    "mask_token",
    "unk_token",
    "additional_special_tokens",
    "extra_special_tokens",
    "chat_template",
    "padding_side",
    "clean_up_tokenization_spaces",
    "src_lang",
    "tgt_lang",
)
"""What `tokenizer_config.json` keeps; the rest are settings of classes that read other files than
ours."""


def foreign_vocabulary(
    checkpoint: Checkpoint, config: TransformerConfig, languages: Languages = UNNAMED
) -> tuple[ForeignVocabulary, bool]:
    """Return the tokenizer of a checkpoint with its special tokens by role, and whether a mask was
    added to it.

    `languages` take the place of those that the files name.

    Where no token is a mask one is added, which takes the id behind all others. Padding is never
    read, so where there is none EOS stands in. Raises `DataError` without tokenizer or EOS, and
    where sources do not end in EOS.
    """
    tokenizer = _read(checkpoint)
    given = checkpoint.tokenizer_config
    if isinstance(blank := given.get("add_prefix_space"), bool):
        _set_blank(tokenizer, blank)
    settings = {name: _piece(given[name]) for name in KEPT_SETTINGS if given.get(name) is not None}
    _speak(checkpoint, tokenizer, settings, languages)
    end = _end(checkpoint, tokenizer, settings, config.encoder_layers == 0)
    start = (
        _decoder_start(checkpoint)
        if config.encoder_layers
        else _id(tokenizer, settings.get("bos_token"))
    )
    pad = _id(tokenizer, settings.get("pad_token"))
    unknown = _id(tokenizer, settings.get("unk_token"))
    mask, added = _mask(tokenizer, settings)
    forced = first_token(checkpoint)
    if "src_lang" in settings and forced is not None:
        settings.setdefault("tgt_lang", tokenizer.id_to_token(forced))
    settings.setdefault("pad_token", tokenizer.id_to_token(end))
    roles = {
        "pad": end if pad is None else pad,
        "bos": end if start is None else start,
        "eos": end,
        "mask": mask,
        "unknown": mask if unknown is None else unknown,
    }
    tokenizer.no_padding()
    tokenizer.no_truncation()
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        **settings,
        "model_max_length": config.max_positions,
        ROLES: roles,
    }
    vocabulary = ForeignVocabulary(tokenizer, settings, _target(checkpoint, settings))
    [nothing] = vocabulary.encode_source([""])
    if end in nothing:
        raise DataError(
            f"{checkpoint.name} has a tokenizer that writes tokens after the end of sentence, and "
            "sources end in it "
            "here: it cannot be converted"
        )
    return vocabulary, added


def _set_blank(tokenizer: Tokenizer, blank: bool) -> None:
    """Put a blank before every text, or none: transformers does as tokenizer_config.json says, also
    where tokenizer.json says otherwise.
    """
    cut = tokenizer.pre_tokenizer
    if isinstance(cut, pre_tokenizers.ByteLevel) and cut.add_prefix_space != blank:
        cut.add_prefix_space = blank
        tokenizer.pre_tokenizer = cut


def first_token(checkpoint: Checkpoint) -> int | None:
    """Return the token that the original is forced to write first; None if there is none.

    As in transformers, config.json counts only where there is no generation_config.json.
    """
    forced = (checkpoint.generation or checkpoint.config).get("forced_bos_token_id")
    return forced if isinstance(forced, int) else None


def _speak(
    checkpoint: Checkpoint, tokenizer: Tokenizer, settings: dict[str, Any], languages: Languages
) -> None:
    """Let sources begin with the code of their language, and settings name codes by their pieces.

    Files of NLLB put the code behind EOS, which transformers mends when it reads them, and do not
    name the language. Raises `UsageError` for a language that the tokenizer has no code for.
    """
    empty, end = tokenizer.encode("").tokens, settings.get("eos_token")
    behind = empty[:1] == [end] and len(empty) == 2 and checkpoint.model_type == "m2m_100"
    if checkpoint.model_type == "m2m_100" and len(empty) == 2 and end in empty:
        [code] = [piece for piece in empty if piece != end]
        if code != settings.get("bos_token"):
            settings.setdefault("src_lang", code)
    for name, given in (("src_lang", languages.source), ("tgt_lang", languages.target)):
        found = _code(tokenizer, given or settings.get(name))
        if given is not None and found is None:
            raise UsageError(
                f"{checkpoint.name} has no language {given}: name one by the code of its "
                f"tokenizer{_codes(checkpoint)}"
            )
        if found is not None:
            settings[name] = found
    if languages.source is None and not behind:
        return
    if len(empty) != 2 or (empty[1] != end and not behind):
        raise UsageError(
            f"{checkpoint.name} has a tokenizer that puts no language before a source: leave the "
            "source language out"
        )
    pieces = [settings["src_lang"], end]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=[pieces[0], "$A", end],
        special_tokens=[(piece, tokenizer.token_to_id(piece)) for piece in pieces],
    )


def _code(tokenizer: Tokenizer, language: Any) -> str | None:
    """Return the piece of a language; that of M2M100 stands between underlines."""
    pieces = [language, f"__{language}__"] if isinstance(language, str) else []
    return next((piece for piece in pieces if tokenizer.token_to_id(piece) is not None), None)


def _codes(checkpoint: Checkpoint) -> str:
    """Return a few of the codes that the files list, to be shown in a message."""
    listed = checkpoint.tokenizer_config.get("additional_special_tokens") or []
    shown = [_piece(piece) for piece in listed[:3]]
    return f" ({', '.join(shown)}, ...)" if shown else ""


def _read(checkpoint: Checkpoint) -> Tokenizer:
    text = checkpoint.tokenizer
    if text is None and checkpoint.model_type == "marian" and checkpoint.directory is not None:
        return marian_tokenizer(checkpoint.directory, checkpoint.name)
    if text is None:
        raise DataError(
            f"{checkpoint.name} has no tokenizer.json: load its tokenizer in transformers "
            "(AutoTokenizer) and "
            "save_pretrained it into the same directory"
        )
    try:
        tokenizer = Tokenizer.from_str(text)
        tokenizer.encode("a b")  # a vocabulary may lack what its own settings name
        return tokenizer
    except Exception as error:  # the tokenizers library raises nothing more precise
        reason = " ".join(str(error).split())
        raise DataError(
            f"{checkpoint.name}: tokenizer.json is broken ({reason}): download it again"
        ) from error


def _target(checkpoint: Checkpoint, settings: dict[str, Any]) -> Tokenizer | None:
    """Return the tokenizer of the target language, where Marian's two SentencePiece files are what
    there is.
    """
    if checkpoint.tokenizer is not None or checkpoint.directory is None:
        return None
    tokenizer = marian_tokenizer(checkpoint.directory, checkpoint.name, "target")
    _mask(tokenizer, settings)
    return tokenizer


def _piece(value: Any) -> Any:
    """Return a special token as a string; older files hold an object with its content."""
    return value["content"] if isinstance(value, dict) and "content" in value else value


def _id(tokenizer: Tokenizer, piece: str | None) -> int | None:
    return None if piece is None else tokenizer.token_to_id(piece)


def named_ends(checkpoint: Checkpoint) -> tuple[int, ...]:
    """Return the tokens at which the original stops, as generation_config.json names them, else
    config.json: a number or a list of them.
    """
    named: Any = checkpoint.generation.get("eos_token_id")
    if named is None:
        named = checkpoint.config.get("eos_token_id")
    listed = named if isinstance(named, list) else [named]
    tokens = [token for token in listed if isinstance(token, int) and not isinstance(token, bool)]
    return tuple(dict.fromkeys(tokens))


def _end(
    checkpoint: Checkpoint, tokenizer: Tokenizer, settings: dict[str, Any], causal: bool
) -> int:
    """Return the token that ends a text: EOS of the tokenizer where the model stops at it.

    The original of a causal model stops where generation_config.json says, and not at another EOS
    that only its tokenizer has. A source ends in that of the tokenizer, whatever ends its target.
    """
    found = _id(tokenizer, settings.get("eos_token"))
    named = [token for token in named_ends(checkpoint) if tokenizer.id_to_token(token) is not None]
    if found is not None and (not named or found in named or not causal):
        return found
    if not named:
        raise DataError(
            f"{checkpoint.name} has no end-of-sentence token: name it in tokenizer_config.json "
            "(eos_token)"
        )
    settings.setdefault("eos_token", tokenizer.id_to_token(named[0]))
    return named[0]


def _decoder_start(checkpoint: Checkpoint) -> int:
    """Return what the decoder of an encoder-decoder begins with."""
    named = checkpoint.generation.get(
        "decoder_start_token_id", checkpoint.config.get("decoder_start_token_id")
    )
    if not isinstance(named, int):
        raise DataError(
            f"{checkpoint.name} does not say decoder_start_token_id: name it in config.json"
        )
    return named


def _mask(tokenizer: Tokenizer, settings: dict[str, Any]) -> tuple[int, bool]:
    """Return the mask, and whether there was none before."""
    found = _id(tokenizer, settings.get("mask_token"))
    if found is None:
        found = _id(tokenizer, MASK)
    if found is not None:
        return found, False
    tokenizer.add_special_tokens([AddedToken(MASK, normalized=False, special=True)])
    settings["mask_token"] = MASK
    found = _id(tokenizer, MASK)
    assert found is not None
    return found, True
