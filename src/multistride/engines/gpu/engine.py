"""The GPU engine: a decoding step is a CUDA graph that is recorded once and repeated.

At K=1 a step of a small model is a few hundred kernels of microseconds each, and the time goes into
launching them. A graph launches all of them at once. It is recorded for each bucket of rows, cached
slots and source tokens (`cache.py`) and each number of new slots, the first time that it is
needed; tokens are picked within it, so what comes back to the host in a step is one small array.

Everything but the recording runs on any device; on the CPU the same step is computed each time, and
tested. Shapes: R sentences, B rows of a bucket, S source tokens, N new slots, K tokens asked, V
vocabulary.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from multistride.decode.loop import Loop, decode
from multistride.decode.markov import followed
from multistride.decode.plan import Plan
from multistride.decode.state import DecodeState
from multistride.decode.writer import Writer
from multistride.device import half_precision
from multistride.engines.gpu.cache import Arena, Arenas, GpuMemory
from multistride.engines.quick import PickedGroups
from multistride.errors import UsageError
from multistride.groups import Slots
from multistride.model.config import TransformerConfig
from multistride.model.markov import MarkovHead
from multistride.model.transformer import Transformer

_WARM_UPS = 3
"""Runs before a graph is recorded; libraries choose their kernels in the first ones."""


class GpuStepModel:
    """A model in bfloat16 (float16 where the GPU lacks it; float32 on a CPU), with static
    memory.
    """

    name = "gpu"
    joins = True
    """Its memories can join (`JoinableMemory`)."""

    def __init__(self, model: Transformer, dtype: torch.dtype | None = None) -> None:
        """Copy `model` to half precision on its own device; its weights are left as they are."""
        self.model = model.eval()
        self.device = model.target_embedding.weight.device
        chosen = dtype or half_precision(self.device)
        self.precision = str(chosen).removeprefix("torch.")
        self._network = copy.deepcopy(model).to(chosen).eval()
        self._markov = copy.deepcopy(model.markov).float() if model.markov is not None else None
        self._arenas = Arenas(model.config, self.device, chosen)
        self._never = torch.tensor(model.config.unpicked, dtype=torch.long, device=self.device)

    @property
    def config(self) -> TransformerConfig:
        """The sizes, special tokens and group sizes of the model."""
        return self.model.config

    @property
    def markov(self) -> MarkovHead | None:
        """The Markov head in float32, on the device, as the logits are; None without."""
        return self._markov

    @torch.inference_mode()
    def start(
        self, source: Int[Tensor, "B S"] | None, lengths: Int[Tensor, "B"] | None
    ) -> GpuMemory:
        """Encode a batch of sources once."""
        if source is None or lengths is None:
            assert not self.config.encoder_layers, "an encoder-decoder model needs a source"
            return GpuMemory(self._arenas, 0, 0)
        memory = GpuMemory(self._arenas, len(source), source.shape[1])
        encoded = self._network.start(source.to(self.device), lengths.to(self.device))
        memory.arena.fill_source(encoded.source, lengths)
        return memory

    @torch.inference_mode()
    def step(self, slots: Slots, memory: GpuMemory) -> Float[Tensor, "B N V"]:
        """Logits of the new slots, which join the memory; float32, on the device."""
        new = slots.token.shape[1]
        return self._run("logits", slots, memory, new)[: memory.rows].clone()

    def shortcut(self, plan: Plan, rows: int) -> Loop | None:
        """Return the loop in which tokens are picked on the device; None where rules have a say."""
        if (own := self._groups(plan)) is None:
            return None
        prefix = plan.rules.prefix
        return lambda source, lengths, state: decode(self, source, lengths, state, own, prefix)

    def writer(self, plan: Plan, state: DecodeState) -> Writer[GpuMemory] | None:
        """Return the writer of that loop."""
        return self._groups(plan)

    def searches(self, beam: int) -> bool:
        """Return True for one group: of several, a search is not recorded."""
        return beam == 1

    def _groups(self, plan: Plan) -> Writer[GpuMemory] | None:
        if not plan.greedy or plan.mode == "exact":
            return None
        return PickedGroups(self, plan.policy, plan.accept, plan.layout == "lookahead")

    @torch.inference_mode()
    def step_greedy(
        self, slots: Slots, memory: GpuMemory, size: int
    ) -> tuple[Int[Tensor, "B K"], Float[Tensor, "B K"]]:
        """The token that greedy decoding picks in each of the last `size` slots, and its
        log-probability.
        """
        found = self._run("best", slots, memory, size)[:, : memory.rows].cpu()
        return found[0].long(), found[1].float()

    def _run(self, kind: str, slots: Slots, memory: GpuMemory, size: int) -> Tensor:
        """Compute a step on the arena of a memory, recorded or to be recorded."""
        memory.announce(slots)
        arena, new = memory.arena, slots.token.shape[1]
        key = (kind, new, size)
        if key not in arena.recorded:
            arena.recorded[key] = recorded(
                lambda: self._computed(kind, arena, new, size), self.device
            )
        return arena.recorded[key]()

    def _pickable(self, logits: Tensor) -> Tensor:
        """Mask the tokens that are never picked; their ids are on the device, as a recording
        needs.
        """
        return logits.index_fill(-1, self._never, float("-inf"))

    def _computed(self, kind: str, arena: Arena, new: int, size: int) -> Tensor:
        """Logits [B, K, V], or the best tokens and their log-probabilities as one array of float64
        [2, B, K].

        Token ids are exact in float64, so one transfer brings both. The Markov head is part of the
        recording.
        """
        slots, visible = arena.loaded(new)
        hidden = self._network.decode(slots, visible, arena.source, arena.real, list(arena.caches))
        logits = self._network.project(hidden[:, -size:]).float()
        if kind == "logits":
            return logits
        if self._network.markov is not None:
            tokens, values = followed(self._pickable, self._network.markov, logits, None)
        else:
            scores = self._pickable(logits)
            best, tokens = scores.max(dim=-1)
            values = best - scores.logsumexp(dim=-1)
        return torch.stack([tokens.double(), values.double()])


def recorded(compute: Callable[[], Tensor], device: torch.device) -> Callable[[], Tensor]:
    """`compute` as a CUDA graph that writes the same array each time; on another device, `compute`
    itself.
    """
    if device.type != "cuda" or not torch.cuda.is_available():
        return compute
    stream = torch.cuda.Stream(device)
    stream.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(stream):
        for _ in range(_WARM_UPS):
            compute()
    torch.cuda.current_stream(device).wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        output = compute()

    def replay() -> Tensor:
        graph.replay()
        return output

    return replay


def check_gpu(model: Transformer) -> None:
    """Raise `UsageError`, saying what was found, unless the weights of `model` are on a CUDA
    device.
    """
    device = model.target_embedding.weight.device
    if not torch.cuda.is_available():
        raise UsageError(
            f"the engine gpu was asked for, and PyTorch {torch.__version__} sees no CUDA device "
            "here, only the CPU: "
            "choose --engine auto, int8 or eager"
        )
    if device.type != "cuda":
        raise UsageError(
            f"the engine gpu was asked for, and the model is on {device}: choose --device cuda "
            f"({torch.cuda.get_device_name()} is there), or --engine auto"
        )
