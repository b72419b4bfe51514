"""The reference engine: the modules of `model/`, run as they are.

Shapes: B sentences, S source tokens, N slots, D hidden size, V vocabulary.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from multistride.groups import Slots
from multistride.model.cache import DecoderCache
from multistride.model.config import TransformerConfig
from multistride.model.markov import MarkovHead
from multistride.model.packing import projection
from multistride.model.transformer import Transformer


class EagerStepModel:
    """The reference engine: PyTorch, in the precision of the weights, with a growing cache.

    The output matrix is packed where that pays, so an engine is made anew when the weights have
    changed.
    """

    name = "eager"
    precision = "float32"
    joins = True
    """Its memories can join (`JoinableMemory`)."""

    def __init__(self, model: Transformer) -> None:
        self.model = model.eval()
        self.device = model.target_embedding.weight.device
        self._project = projection(model)

    @property
    def config(self) -> TransformerConfig:
        """The sizes, special tokens and group sizes of the model."""
        return self.model.config

    @property
    def markov(self) -> MarkovHead | None:
        """The Markov head, which corrects the tokens of a group; None for a model without one."""
        return self.model.markov

    @torch.inference_mode()
    def start(
        self, source: Int[Tensor, "B S"] | None, lengths: Int[Tensor, "B"] | None
    ) -> DecoderCache:
        """Encode a batch of sources once, on the device of the weights."""
        if source is None or lengths is None:
            return self.model.start(None, None)
        return self.model.start(source.to(self.device), lengths.to(self.device))

    @torch.inference_mode()
    def step(self, slots: Slots, memory: DecoderCache) -> Float[Tensor, "B N V"]:
        """Return the logits of the new slots, which join the memory."""
        return self._project(self._hidden(slots, memory))

    @torch.inference_mode()
    def step_with_states(
        self, slots: Slots, memory: DecoderCache
    ) -> tuple[Float[Tensor, "B N V"], Float[Tensor, "B N D"]]:
        """Return the logits of the new slots, which join the memory, and their last states."""
        hidden = self._hidden(slots, memory)
        return self._project(hidden), hidden

    @torch.inference_mode()
    def read(self, slots: Slots, memory: DecoderCache) -> None:
        """Let slots join the memory; no logits are computed."""
        self._hidden(slots, memory)

    def _hidden(self, slots: Slots, memory: DecoderCache) -> Float[Tensor, "B N D"]:
        slots = slots.to(self.device)
        mask = memory.extend(slots.group)
        return self.model.decode(slots, mask, memory.source, memory.source_mask, memory.layers)
