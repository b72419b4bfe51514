"""The model a run begins with: new, or all the weights of another one, decoder included."""

from __future__ import annotations

import torch
from pydantic import ValidationError
from torch import Tensor

from multistride.config import first_problem, validate
from multistride.data.vocab import Vocabulary
from multistride.errors import DataError, UsageError
from multistride.model.classifier import check_classes
from multistride.model.config import TransformerConfig
from multistride.model.transformer import Transformer
from multistride.model.weights import load_model
from multistride.shipped import directory
from multistride.train.config import RunConfig


def first_model(
    config: RunConfig, vocabulary: Vocabulary, causal: bool = False, classes: tuple[str, ...] = ()
) -> Transformer:
    """The model at update 0, decoder-only if `causal`, a classifier if there are `classes`.

    Raises `DataError` if the model to start from has another vocabulary or other classes,
    `UsageError` for a group size larger than the longest sentence, and for data of the other kind
    of model.
    """
    if config.start_from is None:
        shape = classifying(config.model or TransformerConfig(), config, classes)
        _check_kind(shape, config, causal)
        return Transformer(_completed(shape, config, vocabulary))
    start, known = load_model(directory(config.start_from))
    _check_kind(start.config, config, causal)
    if known.digest() != vocabulary.digest():
        raise DataError(
            f"{config.start_from} was trained with another vocabulary than {config.data}: "
            f"prepare the data with --vocabulary {config.start_from}"
        )
    ranks = {start.config.markov_rank, config.groups.markov_rank} - {0}
    if len(ranks) > 1:
        raise UsageError(
            f"groups.markov_rank is {config.groups.markov_rank}, that of {config.start_from} is "
            f"{start.config.markov_rank}: leave it out or name the same"
        )
    _check_adapter(start.config, config)
    model = Transformer(_completed(classifying(start.config, config, classes), config, vocabulary))
    inherited = start.state_dict()
    with torch.no_grad():
        for name, weights in model.state_dict().items():
            # tables of reaches and positions may have grown: what is new keeps its first values
            if name in inherited and weights.shape[1:] == inherited[name].shape[1:]:
                shared = min(len(weights), len(inherited[name]))
                weights[:shared] = inherited[name][:shared]
    if model.markov is not None and start.markov is None:
        _resemble(model.markov.previous.weight, model.target_embedding.weight)
    return model


def classifying(
    model: TransformerConfig, config: RunConfig, classes: tuple[str, ...]
) -> TransformerConfig:
    """The model's configuration as a classifier of these classes; as it is where there are none.

    Raises `DataError` if the model knows other classes, `UsageError` where only data or
    configuration have some.
    """
    shape = config.classifier or model.classifier
    if shape is None and not classes:
        return model
    if shape is None:
        raise UsageError(
            f"{config.data} holds documents with labels: add `classifier: {{}}` to train on them"
        )
    if not classes:
        raise UsageError(
            f"classifier is given and {config.data} holds no labels: prepare with --train-records, "
            "or leave it out"
        )
    known = shape.classes or (model.classifier.classes if model.classifier else ())
    if known:
        check_classes(
            known, classes, str(config.start_from or "classifier.classes"), str(config.data)
        )
    pooled = shape.kind == "pooled"
    if (
        pooled
        and config.model is not None
        and config.model.decoder_layers
        and _given(config.model, "decoder_layers")
    ):
        raise UsageError(
            f"model.decoder_layers is {config.model.decoder_layers}; a pooled classifier has no "
            "decoder: leave it out"
        )
    given = {**model.model_dump(), "classifier": {**shape.model_dump(), "classes": classes}}
    return validate(
        TransformerConfig, {**given, **({"decoder_layers": 0} if pooled else {})}, "classifier"
    )


def _given(model: TransformerConfig, field: str) -> bool:
    return field in model.model_fields_set


def _resemble(table: Tensor, embeddings: Tensor) -> None:
    """Let the rows of a new table be as similar to each other as embeddings are: a random
    projection of those.
    """
    with torch.no_grad():
        projection = torch.randn(embeddings.shape[1], table.shape[1])
        table.copy_(
            torch.nn.functional.normalize((embeddings - embeddings.mean(0)) @ projection, dim=1)
        )


def _check_adapter(start: TransformerConfig, config: RunConfig) -> None:
    """Raise `UsageError` for other adapters than those that are there, and for layouts that they
    cannot write.
    """
    if config.adapter is None and start.adapter is None:
        return
    if config.adapter is not None and start.adapter is not None and config.adapter != start.adapter:
        raise UsageError(
            f"{config.start_from} has other adapters than those of adapter: leave it out"
        )
    groups = config.groups
    if groups.lookahead < 1 or 1 in groups.sizes:
        raise UsageError(
            f"groups.lookahead is {groups.lookahead} and the smallest of groups.sizes "
            f"{min(groups.sizes)}; adapters "
            "write drafts and nothing else: set groups.lookahead to 1, and leave K=1, which stays "
            "as it was, out"
        )


def _check_kind(model: TransformerConfig, config: RunConfig, causal: bool) -> None:
    """Raise `UsageError` unless the model has a source exactly where the data have one."""
    if causal and model.encoder_layers:
        raise UsageError(
            f"{config.data} holds texts without sources and the model has {model.encoder_layers} "
            "encoder layers: "
            "set model.encoder_layers to 0, or prepare pairs"
        )
    if not causal and not model.encoder_layers:
        raise UsageError(
            f"{config.data} holds pairs and the model has no encoder: set model.encoder_layers to "
            "1 or more, or "
            "prepare texts with --train-text"
        )


_DECIDED_BY_DATA = {"vocabulary_size", "pad_token", "start_token", "end_token", "mask_token"}


def _completed(
    model: TransformerConfig, config: RunConfig, vocabulary: Vocabulary
) -> TransformerConfig:
    """The model's configuration with what the data and the group sizes decide."""
    adapter = config.adapter or model.adapter
    sizes = tuple(sorted({*config.groups.sizes, *((1,) if adapter else ())}))
    if sizes[-1] > model.max_positions:
        raise UsageError(
            f"groups.sizes names K={sizes[-1]}; the model writes at most {model.max_positions} "
            "tokens: "
            "choose smaller groups or raise model.max_positions"
        )
    said = config.model is not None and "max_group_size" in config.model.model_fields_set
    if said and sizes[-1] > model.max_group_size:
        raise UsageError(
            f"groups.sizes names K={sizes[-1]}, and model.max_group_size is "
            f"{model.max_group_size}: choose smaller groups, or raise it"
        )
    decided = {
        "vocabulary_size": len(vocabulary),
        "group_sizes": sizes,
        "max_group_size": max(model.max_group_size, *sizes),
        "lookahead": config.groups.lookahead > 0,
        "adapter": adapter,
        "markov_rank": config.groups.markov_rank or model.markov_rank,
        "pad_token": vocabulary.pad,
        "start_token": vocabulary.bos,
        "end_token": vocabulary.eos,
        "mask_token": vocabulary.mask,
    }
    if config.model is not None:
        for name in _DECIDED_BY_DATA & config.model.model_fields_set:
            if (given := getattr(config.model, name)) != decided[name]:
                raise UsageError(
                    f"model.{name} is {given}, and the data makes it {decided[name]}: leave it out"
                )
    try:
        return TransformerConfig.model_validate({**model.model_dump(), **decided})
    except ValidationError as error:
        raise UsageError(
            f"{first_problem(error, TransformerConfig)} (in the configuration of the training)"
        ) from error
