"""The learning rate of an update, a pure function of its number, so that a resumed run cannot
differ.
"""

from __future__ import annotations

import math

from multistride.train.config import TrainingConfig


def learning_rate(config: TrainingConfig, update: int) -> float:
    """Return the rate for update number `update`, counted from 1.

    Linear warm-up, then: `inverse_sqrt` falls with the square root of the update (Vaswani et al.
    2017, arXiv 1706.03762, equation 3); `cosine` and `linear` fall to `final_rate` at the last
    update; `wsd` (warm-up, stable, decay; Hu et al. 2024, arXiv 2404.06395, section 4) stays and
    falls linearly in the last `decay_share` of all updates; `constant` stays.
    """
    if update <= config.warmup_updates:
        return config.learning_rate * update / config.warmup_updates
    if config.schedule == "inverse_sqrt":
        return config.learning_rate * math.sqrt(max(config.warmup_updates, 1) / update)
    if config.schedule == "constant":
        return config.learning_rate
    first = config.warmup_updates
    if config.schedule == "wsd":
        first = max(first, config.updates - round(config.updates * config.decay_share))
    progress = min(max(update - first, 0) / max(config.updates - first, 1), 1.0)
    share = (
        0.5 * (1 + math.cos(math.pi * progress)) if config.schedule == "cosine" else 1 - progress
    )
    return config.learning_rate * (config.final_rate + (1 - config.final_rate) * share)
