"""Our decoding loop in the place of transformers' own:
`model.generate(custom_generate=multistride.hf.generate)`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig

from multistride.decode.batch import writer_for
from multistride.decode.beam import search
from multistride.decode.choosing.policy import Policy
from multistride.decode.choosing.strategy import Measured
from multistride.decode.loop import decode
from multistride.decode.options import DecodeOptions
from multistride.decode.plan import Plan, plan
from multistride.decode.state import DecodeState, Hypothesis
from multistride.engines.eager import EagerStepModel
from multistride.errors import UsageError
from multistride.model.cache import DecoderCache
from multistride.model.transformer import Transformer

_KNOWN_PROCESSORS = {
    "TemperatureLogitsWarper",
    "TopKLogitsWarper",
    "TopPLogitsWarper",
    "MinPLogitsWarper",
}
"""What our sampling does itself."""


class EncodedStepModel(EagerStepModel):
    """The eager engine for sources that transformers has encoded already."""

    def __init__(self, model: Transformer, encoded: Tensor | None, real: Tensor | None) -> None:
        super().__init__(model)
        self._encoded, self._real = encoded, real

    @torch.inference_mode()
    def start(self, source: Tensor | None, lengths: Tensor | None) -> DecoderCache:
        """The memory of the encoded sources; of a causal model without any."""
        if self._encoded is None or self._real is None:
            return self.model.start(None, None)
        keys_values = self.model.project_source(self._encoded)
        return DecoderCache(self.config.decoder_layers, keys_values, self._real[:, None, None, :])


def generate(
    model: Any,
    input_ids: Tensor,
    logits_processor: Any = None,
    stopping_criteria: Any = None,
    generation_config: GenerationConfig | None = None,
    group_size: int = 1,
    mode: str = "fast",
    threshold: float | None = None,
    policy: Policy | str | None = None,
    drafts: str | None = None,
    group_streamer: Any = None,
    **prepared: Any,
) -> Tensor:
    """Token ids [B, T] as transformers returns them: what was given, then what was written with its
    EOS, padded.

    `group_size`, `mode`, `threshold`, `drafts` and the names of a `policy` are those of
    `DecodeOptions`; a policy of one's own is a function (`decode.policy.Policy`). `drafts="text"`
    needs no training, and looks in the table of phrases of the model's directory too, if
    `multistride phrases` wrote one. Of `generation_config` it reads `max_length` (so also
    `max_new_tokens`), `do_sample`, `temperature`, `top_k`, `top_p`, `min_p`, `num_beams` and
    `length_penalty`; chance comes from torch's generator. `group_streamer` is given every group of
    the first text as it is written; `prepared` is what transformers made of the inputs (its
    encoder's output, the attention mask). Raises `UsageError` for what the model cannot do, and for
    logits processors, which see one token at a time.
    """
    encoder_outputs = prepared.get("encoder_outputs")
    assert generation_config is not None
    transformer: Transformer = model.transformer
    _check_processors(logits_processor)
    named = policy if isinstance(policy, str) else None
    options = _options(generation_config, group_size, mode, threshold, named, drafts)
    known = Measured(phrases=model.phrases if options.mode == "exact" else None)
    chosen = plan(options, transformer.config, knowledge=known)
    if callable(policy):
        chosen = chosen.proposing(policy)
    encoded, real = (
        (None, None)
        if encoder_outputs is None
        else (encoder_outputs[0], encoder_outputs.attentions)
    )
    engine = EncodedStepModel(transformer, encoded, real)
    room = int(generation_config.max_length) - input_ids.shape[1]
    if options.beam > 1:
        return _joined(
            input_ids, _searched(engine, input_ids, room, options, generation_config), engine
        )
    prompts = _prompts(input_ids, prepared.get("attention_mask"), causal=encoded is None)
    config = transformer.config
    limits = [room] * len(prompts)
    state = DecodeState(
        limits,
        config.start_token,
        config.end_token,
        prompts,
        config.start_symbol,
        further_ends=config.further_ends,
    )
    for hypotheses in _passes(engine, state, chosen, prompts):
        if group_streamer is not None and state.hypotheses[0] in hypotheses:
            group_streamer.put(torch.tensor(state.hypotheses[0].groups[-1].tokens))
    if group_streamer is not None:
        group_streamer.end()
    return _joined(input_ids, state.hypotheses, engine)


def _passes(
    engine: EncodedStepModel, state: DecodeState, chosen: Plan, prompts: list[list[int]]
) -> Iterator[list[Hypothesis]]:
    """Return the passes that write a batch; sampling draws its seeds from torch's generator."""
    sampling = chosen.options.temperature > 0
    seeds = torch.randint(2**62, (len(state.hypotheses),)).tolist() if sampling else []
    return decode(engine, None, None, state, writer_for(engine, chosen, state, prompts, seeds))


def _searched(
    engine: EncodedStepModel,
    input_ids: Tensor,
    room: int,
    options: DecodeOptions,
    settings: GenerationConfig,
) -> list[Hypothesis]:
    """The best hypotheses of a beam search; transformers has repeated every row `num_beams`
    times.
    """
    if engine._encoded is None or engine._real is None or input_ids.shape[1] > 1:
        raise UsageError(
            f"num_beams {options.beam} was asked for after a prompt; beam search here begins with the start symbol: "
            "choose num_beams=1, or custom_generate=None for the search of transformers"
        )
    wanted = settings.num_return_sequences or 1
    if wanted > 1:
        raise UsageError(
            f"num_return_sequences is {wanted}; the beam search here returns the best one: leave it out"
        )
    once = slice(None, None, options.beam)
    one_each = EncodedStepModel(engine.model, engine._encoded[once], engine._real[once])
    source = torch.zeros(len(input_ids[once]), 1, dtype=torch.long)
    limits = [room] * len(source)
    found = search(
        one_each, source, torch.ones(len(source), dtype=torch.long), limits, options, wanted=1
    )
    return [best.hypothesis for [best] in found]


def _options(
    settings: GenerationConfig,
    group_size: int,
    mode: str,
    threshold: float | None,
    policy: str | None,
    drafts: str | None,
) -> DecodeOptions:
    choices: dict[str, Any] = {
        "group_size": group_size,
        "mode": mode,
        "threshold": threshold,
        "policy": policy,
    }
    choices["drafts"] = drafts
    if settings.do_sample:
        choices["temperature"] = 1.0 if settings.temperature is None else settings.temperature
        choices.update(
            {
                name: value
                for name in ("top_k", "top_p", "min_p")
                if (value := getattr(settings, name)) is not None
            }
        )
    if (settings.num_beams or 1) > 1:
        penalty = settings.length_penalty
        choices.update(beam=settings.num_beams, length_penalty=1.0 if penalty is None else penalty)
    return DecodeOptions.made(**choices)


def _check_processors(processors: Any) -> None:
    others = [
        name for each in processors or () if (name := type(each).__name__) not in _KNOWN_PROCESSORS
    ]
    if others:
        raise UsageError(
            f"generation was asked for with {others[0]}, which sees one token at a time and cannot steer groups: "
            "leave that setting out, or use custom_generate=None for the loop of transformers"
        )


def _prompts(input_ids: Tensor, attention_mask: Tensor | None, causal: bool) -> list[list[int]]:
    """What each row is known to begin with: of a causal model all of it, else what follows the
    start symbol.
    """
    if not causal:
        return [row[1:] for row in input_ids.tolist()]
    mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
    return [row[kept.bool()].tolist() for row, kept in zip(input_ids, mask, strict=True)]


def _joined(input_ids: Tensor, hypotheses: list[Hypothesis], engine: EncodedStepModel) -> Tensor:
    """Given and written tokens, padded on the right."""
    written = [
        torch.tensor(
            [token for group in hypothesis.groups for token in group.tokens], dtype=torch.long
        )
        for hypothesis in hypotheses
    ]
    table = torch.nn.utils.rnn.pad_sequence(
        written, batch_first=True, padding_value=engine.config.pad_token
    )
    given = input_ids[:: len(input_ids) // len(hypotheses)]
    return torch.cat([given, table.to(input_ids.device)], dim=1)
