"""Byte-level tokenizers made anew from pieces and merges, as GGUF files hold them."""

from __future__ import annotations

from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors

from multistride.errors import DataError

_WORDS_AND_NUMBERS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|{numbers}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def _by_expression(numbers: str) -> Any:
    expression = Regex(_WORDS_AND_NUMBERS.format(numbers=numbers))
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(expression, "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )


def _digits_apart() -> Any:
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )


CUTTING = {
    "gpt-2": lambda: pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
    "smollm": _digits_apart,
    "llama-bpe": lambda: _by_expression(r"\p{N}{1,3}"),
    "qwen2": lambda: _by_expression(r"\p{N}"),
}
"""How a text is cut into words before they are merged, by the name llama.cpp has for it
(`tokenizer.ggml.pre`)."""


def byte_level_tokenizer(
    pieces: list[str],
    merges: list[tuple[str, str]],
    special: dict[str, bool],
    cutting: str,
    first: str | None,
    name: str,
) -> str:
    """The text of a tokenizer.json. `special` says of every added piece whether it is special,
    `first` is put before every text. Raises `DataError` for a way of cutting words that is not
    known.
    """
    if cutting not in CUTTING:
        raise DataError(
            f"{name} cuts words as {cutting} does; known are {', '.join(CUTTING)}: convert what it was made of"
        )
    tokenizer = Tokenizer(models.BPE({piece: token for token, piece in enumerate(pieces)}, merges))
    tokenizer.pre_tokenizer = CUTTING[cutting]()
    tokenizer.decoder = decoders.ByteLevel()
    for piece, is_special in special.items():
        added = [AddedToken(piece, normalized=False, special=is_special)]
        (tokenizer.add_special_tokens if is_special else tokenizer.add_tokens)(added)
    if first is not None:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{first} $A", special_tokens=[(first, tokenizer.token_to_id(first))]
        )
    return str(tokenizer.to_str())
