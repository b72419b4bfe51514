"""Our decoding loop in the place of transformers' own:
`model.generate(custom_generate=multistride.hf.generate)`.

What transformers can ask of `generate` is honoured here, or given to its own loop (at K=1, which is
autoregressive there too), or refused: `requested` decides which.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig
from transformers.generation import (
    EosTokenCriteria,
    MaxLengthCriteria,
    MaxTimeCriteria,
    SuppressTokensLogitsProcessor,
)
from transformers.generation.utils import (
    GenerateDecoderOnlyOutput,
    GenerateEncoderDecoderOutput,
)

from multistride.decode.batch import new_state, writer_for
from multistride.decode.beam import search
from multistride.decode.choosing.policy import Policy
from multistride.decode.choosing.strategy import Measured
from multistride.decode.corpus import source_batch
from multistride.decode.hypothesis import Hypothesis
from multistride.decode.loop import decode
from multistride.decode.options import DecodeOptions
from multistride.decode.plan import Plan, plan
from multistride.decode.state import DecodeState
from multistride.engines.eager import EagerStepModel
from multistride.errors import UsageError
from multistride.model.cache import DecoderCache
from multistride.model.config import TransformerConfig
from multistride.model.transformer import Transformer

logger = logging.getLogger(__name__)

_KNOWN_PROCESSORS = {
    "TemperatureLogitsWarper",
    "TopKLogitsWarper",
    "TopPLogitsWarper",
    "MinPLogitsWarper",
    "ForcedBOSTokenLogitsProcessor",
}
"""What our loop does itself: sampling, and the forced first token."""

OURS = ("group_size", "mode", "threshold", "policy", "drafts", "group_beam")
"""The settings that `generate` has and transformers does not."""

_HONOURED = {
    *("max_length", "max_new_tokens", "max_time"),
    *("do_sample", "temperature", "top_k", "top_p", "min_p"),
    *("num_beams", "length_penalty", "return_dict_in_generate"),
    *("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id"),
    *("transformers_version", "use_cache"),
}
"""Fields of a `GenerationConfig` that our loop follows."""

_SETTINGS = vars(GenerationConfig()).keys()
"""All fields of a `GenerationConfig`."""

_INPUTS = {
    *("inputs", "input_ids", "attention_mask", "decoder_input_ids", "decoder_attention_mask"),
    *("encoder_outputs", "streamer", "tokenizer", "trust_remote_code", "synced_gpus"),
    *("token_type_ids", "labels"),
}
"""Arguments that are no choices: our loop reads them, or has no use for them."""

_ALWAYS_THEIRS = ("logits_processor", "stopping_criteria", "prefix_allowed_tokens_fn")


@dataclass(frozen=True)
class Requested:
    """Settings of one call of `generate`, and whether it needs the loop of transformers."""

    settings: dict[str, Any]
    one_by_one: bool


def requested(
    stored: GenerationConfig,
    given: GenerationConfig | None,
    settings: dict[str, Any],
    start: int | None = None,
) -> Requested:
    """Return which loop serves a call of `generate`, with defaults from generation_config.json.

    `start` is what the decoder of an encoder-decoder begins with in our loop; None for a causal
    model.

    Raises `UsageError` for groups together with what needs one token at a time. Groups that only
    generation_config.json asks for give way to it, and a warning says so.
    """
    defaults = {**_different(stored), **({} if given is None else _different(given))}
    asked = {name: settings[name] for name in OURS if settings.get(name) is not None}
    by_file = (
        [] if "policy" in asked else [name for name in ("group_size", "mode") if name in defaults]
    )
    kept = {name: defaults[name] for name in by_file} | asked
    rest = {name: value for name, value in settings.items() if name not in OURS}
    needing = _needing_one_by_one({**defaults, **rest}, start)
    grouped = {name: value for name, value in kept.items() if value not in (1, "fast")}
    if not needing:
        return Requested({**rest, **kept}, one_by_one=False)
    if stated := [name for name in grouped if name in asked]:
        name, value = stated[0], asked[stated[0]]
        raise UsageError(
            f"{name} {value} was given together with {needing}, which sees one token at a time and "
            "cannot steer groups: leave one of them out"
        )
    if grouped:
        logger.warning(
            "generation_config.json asks for %s, and %s needs one token at a time: "
            "generating with group_size 1",
            " and ".join(f"{name} {value}" for name, value in grouped.items()),
            needing,
        )
    return Requested(rest, one_by_one=True)


def hand_over(request: Requested, config: TransformerConfig) -> dict[str, Any]:
    """Return the settings for the loop of transformers, in which the tokens that our loop never
    picks are not picked either.
    """
    settings = dict(request.settings)
    if config.unpicked:
        never = SuppressTokensLogitsProcessor(list(config.unpicked))
        settings["logits_processor"] = [*(settings.get("logits_processor") or ()), never]
    return settings


def ended(
    source: Tensor, attention_mask: Tensor | None, config: TransformerConfig
) -> tuple[Tensor, Tensor]:
    """Return sources that all end in EOS, and their mask; unchanged where they do already.

    Padding may stand on either side; where EOS is added it comes to stand on the right. Without a
    mask, padding is told by its token, as transformers does, unless that token ends texts too.
    """
    if attention_mask is not None:
        mask = attention_mask
    elif config.pad_token in config.ends:
        mask = torch.ones_like(source)
    else:
        mask = source.ne(config.pad_token).long()
    rows = [row[kept.bool()] for row, kept in zip(source, mask, strict=True)]
    end = source.new_tensor([config.end_token])
    if all(row[-1:].equal(end) for row in rows):
        return source, mask
    rows = [row if row[-1:].equal(end) else torch.cat([row, end]) for row in rows]
    padded = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=config.pad_token)
    lengths = torch.tensor([len(row) for row in rows], device=source.device)
    places = torch.arange(padded.shape[1], device=source.device)
    return padded, (places < lengths[:, None]).to(mask.dtype)


def _different(settings: GenerationConfig) -> dict[str, Any]:
    """Return what differs from the defaults of transformers, and from saying nothing."""
    neutral = settings._get_default_generation_params()
    return {
        name: value
        for name, value in settings.to_diff_dict().items()
        if value is not None and value != neutral.get(name) and not name.startswith("_")
    }


def _needing_one_by_one(choices: dict[str, Any], start: int | None) -> str | None:
    """Return the first choice that only the loop of transformers can follow, if there is one."""
    begin = choices.get("decoder_start_token_id")
    if start is not None and begin is not None and begin != start:
        return f"decoder_start_token_id {begin}"
    neutral = GenerationConfig()._get_default_generation_params()
    beams, sampled = choices.get("num_beams") or 1, bool(choices.get("do_sample"))
    # A causal model has a forced first token only where its prompt is a single token.
    honoured = _HONOURED if start is None else {*_HONOURED, "forced_bos_token_id"}
    for name, value in choices.items():
        if name in _INPUTS or name in OURS or value is None or value is False:
            continue
        if isinstance(value, int | float | str) and name not in _SETTINGS:
            continue  # a setting of nobody, which transformers refuses by its name
        if name in _ALWAYS_THEIRS:
            if len(value) if hasattr(value, "__len__") else True:
                return type(value[0]).__name__ if hasattr(value, "__len__") else name
        elif name == "num_return_sequences":
            if value > 1 and (beams > 1 or not sampled):
                return f"num_return_sequences {value}"
        elif name not in honoured and value != neutral.get(name):
            return name if hasattr(value, "shape") or callable(value) else f"{name} {value}"
    if choices.get("use_cache") is False:
        return "use_cache False"
    if beams > 1 and sampled:
        return f"num_beams {beams} with do_sample"
    if beams > 1 and choices.get("max_time") is not None:
        return f"num_beams {beams} with max_time"
    begun = choices.get("decoder_input_ids")
    if beams > 1 and start is not None and begun is not None and not bool((begun == start).all()):
        return f"num_beams {beams} with decoder_input_ids"
    return None


class EncodedStepModel(EagerStepModel):
    """The eager engine for sources that transformers has encoded already."""

    def __init__(self, model: Transformer, encoded: Tensor | None, real: Tensor | None) -> None:
        super().__init__(model)
        self._encoded, self._real = encoded, real

    @torch.inference_mode()
    def start(self, source: Tensor | None, lengths: Tensor | None) -> DecoderCache:
        """Return the memory of the encoded sources; of a causal model without any."""
        if self._encoded is None or self._real is None:
            return self.model.start(None, None)
        keys_values = self.model.project_source(self._encoded)
        return DecoderCache(self.model.cache_count, keys_values, self._real[:, None, None, :])


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
    group_beam: int | None = None,
    group_streamer: Any = None,
    **prepared: Any,
) -> Any:
    """Return token ids [B, T] as transformers does: what was given, then what was written with its
    EOS, padded.

    `group_size`, `mode`, `threshold`, `drafts`, `group_beam` and the names of a `policy` are those
    of `DecodeOptions`; a policy of one's own is a function (`decode.choosing.policy.Policy`).
    `drafts="text"` needs no training, and looks in the table of phrases of the model's directory
    too, if `multistride phrases` wrote one; adaptive mode uses its calibration. Of
    `generation_config` it reads `group_size`, `mode`, `max_length` (so also `max_new_tokens`),
    `max_time`, `do_sample`, `temperature`, `top_k`, `top_p`, `min_p`, `num_beams`,
    `length_penalty`, `forced_bos_token_id`, `eos_token_id`, `pad_token_id` and
    `return_dict_in_generate`; chance comes from torch's generator. `group_streamer` is given every
    group of the first text as it is written; `prepared` is what transformers made of the inputs
    (its encoder's output, the attention mask).

    Raises `UsageError` for what the model cannot do, for logits processors, which see one token at
    a time, and for stopping criteria of one's own.
    """
    assert generation_config is not None
    begun = time.monotonic()
    transformer: Transformer = model.transformer
    _check_processors(logits_processor)
    _check_criteria(stopping_criteria)
    if policy is not None and not isinstance(policy, str) and not callable(policy):
        raise UsageError(
            f"policy {policy!r} was given; it takes a name such as 'phase', or a function"
        )
    if not len(input_ids):
        return _result(model, generation_config, input_ids)
    named = policy if isinstance(policy, str) else None
    ours = {
        **{"group_size": group_size, "mode": mode, "threshold": threshold},
        **{"policy": named, "drafts": drafts, "group_beam": group_beam},
    }
    options = _options(generation_config, ours)
    chosen = _planned(model, options, policy if callable(policy) else None)
    chosen = _begun_and_ended(chosen, generation_config, input_ids.shape[1])
    encoded, real = _encoded(prepared)
    engine = EncodedStepModel(transformer, encoded, real)
    room = _room(generation_config, input_ids, transformer.config)
    pad_token = generation_config.pad_token_id
    pad_token = transformer.config.pad_token if pad_token is None else int(pad_token)
    mask = prepared.get("attention_mask" if encoded is None else "decoder_attention_mask")
    prompts = _prompts(input_ids, mask, causal=encoded is None)
    if options.beam > 1:
        hypotheses = _searched(engine, prompts, room, chosen)
        return _result(model, generation_config, _joined(input_ids, hypotheses, pad_token))
    state = new_state(chosen, [room] * len(prompts), prompts)
    for hypotheses in _passes(engine, state, chosen, prompts):
        if group_streamer is not None and state.hypotheses[0] in hypotheses:
            group_streamer.put(torch.tensor(state.hypotheses[0].groups[-1].tokens))
        limit = generation_config.max_time
        if limit is not None and time.monotonic() - begun > limit:
            break
    if group_streamer is not None:
        group_streamer.end()
    return _result(model, generation_config, _joined(input_ids, state.hypotheses, pad_token))


def _planned(model: Any, options: DecodeOptions, policy: Policy | None) -> Plan:
    """Return the plan of options with what is known of the model, and a policy of one's own."""
    known = Measured() if options.mode == "fast" else model.measured
    chosen = plan(options, model.transformer.config, knowledge=known)
    return chosen if policy is None else chosen.proposing(policy)


def _begun_and_ended(chosen: Plan, settings: GenerationConfig, given: int) -> Plan:
    """Return the plan with the forced first token and the ends of the settings.

    As in transformers, nothing is forced behind more than the one token that `given` counts in a
    text without a beginning of its own.
    """
    config, forced = chosen.config, settings.forced_bos_token_id
    begins = forced is not None and config.encoder_layers > 0 and given == 1
    prefix = (int(forced),) if begins else ()
    end, *further = _ends(settings, config)
    return replace(
        chosen,
        rules=replace(chosen.rules, prefix=prefix),
        config=config.model_copy(update={"end_token": end, "further_ends": tuple(further)}),
    )


def _room(settings: GenerationConfig, given: Tensor, config: TransformerConfig) -> int:
    """Return the most tokens to write behind what was given; warn of more than the model tells
    apart.
    """
    longest = int(settings.max_length)
    if longest > config.max_positions:
        logger.warning(
            "max_length %d goes beyond the %d positions of this model: texts that get so long lose "
            "their order; lower max_new_tokens",
            longest,
            config.max_positions,
        )
    return longest - given.shape[1]


def _encoded(prepared: dict[str, Any]) -> tuple[Tensor | None, Tensor | None]:
    """Return the encoded sources [B, S, D] and which of their tokens are real [B, S]; None for a
    causal model.
    """
    outputs, mask = prepared.get("encoder_outputs"), prepared.get("attention_mask")
    if outputs is None:
        return None, None
    encoded: Tensor = outputs[0]
    everything = torch.ones(encoded.shape[:2], dtype=torch.bool, device=encoded.device)
    return encoded, everything if mask is None else mask.bool()


def _ends(settings: GenerationConfig, config: TransformerConfig) -> tuple[int, ...]:
    """Return the tokens that end a text: those of the settings, else those of the model."""
    ends = settings.eos_token_id
    if ends is None:
        return config.ends
    if isinstance(ends, Tensor):
        ends = ends.flatten().tolist()
    listed = tuple(int(token) for token in (ends if isinstance(ends, list | tuple) else [ends]))
    return listed or config.ends


def _result(model: Any, settings: GenerationConfig, sequences: Tensor) -> Any:
    """Return the tokens, in an object where `return_dict_in_generate` asks for one."""
    if not settings.return_dict_in_generate:
        return sequences
    if model.config.is_encoder_decoder:
        return GenerateEncoderDecoderOutput(sequences=sequences)
    return GenerateDecoderOnlyOutput(sequences=sequences)


def _passes(
    engine: EncodedStepModel, state: DecodeState, chosen: Plan, prompts: list[list[int]]
) -> Iterator[list[Hypothesis]]:
    """Return the passes that write a batch; sampling draws its seeds from torch's generator."""
    sampling = chosen.options.temperature > 0
    seeds = torch.randint(2**62, (len(state.hypotheses),)).tolist() if sampling else []
    writer = writer_for(engine, chosen, state, prompts, seeds)
    return decode(engine, None, None, state, writer, chosen.rules.prefix)


def _searched(
    engine: EncodedStepModel, prompts: list[list[int]], room: int, chosen: Plan
) -> list[Hypothesis]:
    """Return the best hypothesis of each text; transformers has repeated every row `num_beams`
    times. `prompts` are those of a causal model: an encoder-decoder's texts have no beginning here.
    """
    once = slice(None, None, chosen.options.beam)
    limits = [room] * len(prompts[once])
    if engine._encoded is None or engine._real is None:
        batch = source_batch(prompts[once], engine.config)
        found = search(engine, *batch, limits, chosen, wanted=1)
    else:
        one_each = EncodedStepModel(engine.model, engine._encoded[once], engine._real[once])
        found = search(one_each, None, None, limits, chosen, wanted=1)
    return [best.hypothesis for [best] in found]


def _options(settings: GenerationConfig, ours: dict[str, Any]) -> DecodeOptions:
    """Return our own settings and those of transformers as options."""
    choices = dict(ours)
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


def _check_criteria(criteria: Any) -> None:
    """Raise `UsageError` for criteria other than those that transformers makes of the settings."""
    own = (EosTokenCriteria, MaxLengthCriteria, MaxTimeCriteria)
    for each in criteria or ():
        if not isinstance(each, own):
            raise UsageError(
                f"generation was asked for with {type(each).__name__}, which sees one token at a "
                "time: leave it out, or use custom_generate=None for the loop of transformers"
            )


def _check_processors(processors: Any) -> None:
    others = [
        name for each in processors or () if (name := type(each).__name__) not in _KNOWN_PROCESSORS
    ]
    if others:
        raise UsageError(
            f"generation was asked for with {others[0]}, which sees one token at a time and cannot "
            "steer groups: "
            "leave that setting out, or use custom_generate=None for the loop of transformers"
        )


def _prompts(input_ids: Tensor, attention_mask: Tensor | None, causal: bool) -> list[list[int]]:
    """Return what each row is known to begin with: of a causal model all of it, else what follows
    the start symbol.
    """
    mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
    rows = [row[kept.bool()].tolist() for row, kept in zip(input_ids, mask, strict=True)]
    return rows if causal else [row[1:] for row in rows]


def _joined(input_ids: Tensor, hypotheses: list[Hypothesis], pad_token: int) -> Tensor:
    """Return given and written tokens, padded on the right."""
    written = [
        torch.tensor(
            [token for group in hypothesis.groups for token in group.tokens], dtype=torch.long
        )
        for hypothesis in hypotheses
    ]
    table = torch.nn.utils.rnn.pad_sequence(written, batch_first=True, padding_value=pad_token)
    given = input_ids[:: len(input_ids) // len(hypotheses)]
    return torch.cat([given, table.to(input_ids.device)], dim=1)
