"""One sentence from the inside: what each step wrote, its confidence, and its attention."""

from __future__ import annotations

from typing import Any

import torch

from multistride.decode.corpus import source_batch
from multistride.errors import DataError, UsageError
from multistride.evaluate.attention_map import cross_attention
from multistride.groups import NO_LABEL, sizes_behind, teacher_forced
from multistride.translator import Translator


def look_into(translator: Translator, text: str, group_size: int) -> dict[str, Any]:
    """Translate `text` and return pieces, probabilities and attention, as JSON.

    `attention` has a row for each target token and a column for each source token, EOS included on
    both sides: the mean over layers and heads. Raises `DataError` for a blank text or one that is
    too long, `UsageError` for a causal model or a group size it cannot write.
    """
    if not translator.config.encoder_layers:
        raise UsageError(
            "a causal model has no source sentence to look at: inspect it without --sentence"
        )
    [result] = translator.translate([text], group_size=group_size)
    if not result.trace:
        raise DataError(
            f"{text[:80]!r} has no translation: {result.problem or 'it is blank: give a sentence'}"
        )
    vocabulary, config = translator.vocabulary, translator.config
    [source] = translator.encode([text])
    written = [token for group in result.trace for token in group.tokens]
    target, lengths = torch.tensor([written]), torch.tensor([len(written)])
    sizes = sizes_behind(config.forced_tokens, lengths, group_size)
    slots, labels = teacher_forced(target, lengths, sizes, config.start_token)
    device = translator.engine.device
    tokens, length = (each.to(device) for each in source_batch([source], config))
    weights = cross_attention(translator.engine.model, tokens, length, slots.to(device))
    asked = labels[0] != NO_LABEL
    return {
        "source": text,
        "text": result.text,
        "group_size": group_size,
        "source_pieces": vocabulary.pieces([*source, config.end_token]),
        "groups": [vocabulary.pieces(group.tokens) for group in result.trace],
        "probabilities": [round(float(torch.tensor(score).exp()), 4) for score in result.scores],
        "confidence": [round(group.confidence, 4) for group in result.trace],
        "attention": [
            [round(value, 4) for value in row] for row in weights.mean((0, 1)).cpu()[asked].tolist()
        ],
    }
