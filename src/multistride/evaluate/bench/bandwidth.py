"""Memory bandwidth of this machine, and the share of it that a decoder uses.

At small batches a decoding step is little more than reading the decoder's weights once. So the
weights that were streamed, over the time it took, over what the machine can read, says how much is
left to gain.
"""

from __future__ import annotations

import time

import torch

from multistride.model.config import TransformerConfig

_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2, "int8": 1}
_BUFFER = 2**28
"""Bytes read to measure: more than most caches hold."""


def read_bandwidth(threads: int, rounds: int = 5) -> float:
    """Return bytes per second that PyTorch reads from memory: the best of several sums."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        buffer = torch.ones(_BUFFER // 4)
        times = []
        for _ in range(rounds):
            began = time.perf_counter()
            buffer.sum()
            times.append(time.perf_counter() - began)
    finally:
        torch.set_num_threads(before)
    return _BUFFER / min(times)


def weights_per_step(config: TransformerConfig) -> int:
    """Return the number of weights of one decoder pass, with the output projection, no biases."""
    width = config.hidden_size
    attention = 4 * width**2
    cross = 2 * width**2 if config.encoder_layers else 0
    feedforward = 2 * width * config.feedforward_size
    return (
        config.decoder_layers * (attention + cross + feedforward) + config.vocabulary_size * width
    )


def weights_per_batch(config: TransformerConfig) -> int:
    """Return the number of weights read once a batch: encoder, keys and values of the source."""
    width = config.hidden_size
    if not config.encoder_layers:
        return 0
    layer = 4 * width**2 + 2 * width * config.feedforward_size
    return config.encoder_layers * layer + config.decoder_layers * 2 * width**2


def bytes_per_weight(precision: str) -> int | None:
    """Return the bytes of one weight, without scales; None for an unknown precision."""
    return next((size for name, size in _BYTES.items() if precision.startswith(name)), None)
