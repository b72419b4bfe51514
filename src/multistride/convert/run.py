"""Converting a checkpoint: read, map, write. Nothing is written unless all of it could be
converted.
"""

from __future__ import annotations

import logging
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from pydantic import ValidationError
from torch import Tensor

from multistride.config import first_problem
from multistride.convert import bart, gemma, gpt2, learned, llama, parallel, t5
from multistride.convert.checkpoint import Checkpoint, fetched, read_directory
from multistride.convert.gguf import read_gguf
from multistride.convert.names import Layout, mapped
from multistride.convert.tokenizer import (
    UNNAMED,
    Languages,
    first_token,
    foreign_vocabulary,
    named_ends,
)
from multistride.data.foreign import ForeignVocabulary
from multistride.errors import DataError, UsageError
from multistride.files import refuse_foreign, refuse_inputs, same_file, sha256
from multistride.model.config import TransformerConfig
from multistride.model.directory import refuse_made, refuse_models
from multistride.model.transformer import Transformer
from multistride.model.weights import save_model
from multistride.shipped import Origin, origin_of, origins

logger = logging.getLogger(__name__)

LAYOUTS: dict[str, Layout] = {
    "bart": bart.LAYOUT,
    "gemma": gemma.LAYOUT,
    "gemma2": gemma.LAYOUT,
    "gemma3_text": gemma.LAYOUT,
    "gpt2": gpt2.LAYOUT,
    "gpt_neo": learned.NEO,
    "gpt_neox": parallel.NEOX,
    "phi": parallel.PHI,
    "marian": bart.LAYOUT,
    "mbart": bart.LAYOUT,
    "t5": t5.LAYOUT,
    "mt5": t5.LAYOUT,
    "m2m_100": bart.LAYOUT,
    "llama": llama.LAYOUT,
    "mistral": llama.LAYOUT,
    "olmo2": llama.LAYOUT,
    "opt": learned.OPT,
    "phi3": llama.LAYOUT,
    "qwen2": llama.LAYOUT,
    "qwen3": llama.LAYOUT,
}
"""The layouts that can be converted, by the `model_type` of their config.json."""

_TEXT_ONLY = "it holds a model of images as well: take a text-only one, such as gemma-3-1b-it"
WHY_NOT = {
    "umt5": "its learned bias of attention differs from layer to layer, and here one serves all",
    "gemma3": _TEXT_ONLY,
    "gemma3n": _TEXT_ONLY,
    "llava": _TEXT_ONLY,
    "mixtral": "its feed-forward layers are mixtures of experts, and there is no router here",
    "qwen2_moe": "its feed-forward layers are mixtures of experts, and there is no router here",
    "qwen3_moe": "its feed-forward layers are mixtures of experts, and there is no router here",
    "nllb-moe": "its feed-forward layers are mixtures of experts, and there is no router here",
    "bert": "it fills gaps and does not write texts",
    "roberta": "it fills gaps and does not write texts",
    "bloom": "its attention falls off with the distance (ALiBi), in every head at its own rate",
    "falcon": "it has several arrangements of norms and heads, which are not told apart here",
    "mamba": "it has no attention",
}
"""Layouts that were tried, and the reason why they are refused."""

_MANY_LANGUAGES = ("m2m_100", "mbart")
"""Layouts that write the code of a language first."""

_SEED = 0
_WRONG = (TypeError, ValueError, AttributeError, ArithmeticError, IndexError, RuntimeError)
"""What values of the wrong kind end in: Python's own errors, and PyTorch's."""

_TABLES = (
    "target_embedding.weight",
    "source_embedding.weight",
    "output.weight",
    "output_bias",
)
"""Tensors with a row for each entry of the vocabulary."""

_LICENCE = re.compile(r"^license:\s*(\S+)", re.MULTILINE)


@dataclass(frozen=True)
class Converted:
    """A model made of a checkpoint, and what did not come along."""

    model: Transformer
    vocabulary: ForeignVocabulary
    checkpoint: Checkpoint
    lost: tuple[str, ...]


def convert(
    source: str, directory: Path, download: bool = False, languages: Languages = UNNAMED
) -> Converted:
    """Read `source` (a directory, a GGUF file, or a name on the hub) and write a model directory.

    A name is looked for in the cache of the hub, and fetched if `download` says so; that of a model
    of which drafts ship (`multistride models`) stands for the file in the package of its weights.
    Such a model gets its drafts. `languages` are for models that write many (NLLB): the code of the
    target's is what they write first.

    Raises `DataError` for what cannot be converted, with the reason, `UsageError` if `directory` is
    the source, and `MissingExtraError` for a package that is not installed.
    """
    if Path(source).exists() and same_file(Path(source), directory):
        raise UsageError(f"{source} is the source and the place to write: choose another directory")
    if Path(source).exists():
        refuse_inputs(directory, [Path(source)])
    refuse_foreign(directory, "model")
    refuse_models(directory, "converted_from", "a converted model")
    ours = {sha256(path) for origin in origins() for path in origin.drafts()}
    refuse_made(directory, "a converted model", ours)
    result = converted(open_source(source, download), languages)
    checkpoint = result.checkpoint
    drafts = _drafts(source, checkpoint)
    provenance = {
        "converted_from": {
            "source": checkpoint.name,
            "model_type": checkpoint.model_type,
            "sha256": checkpoint.hashes,
        },
        "original_config": checkpoint.config,
        "lost": list(result.lost),
    }
    card = model_card(checkpoint, result.model.config, result.lost, drafts)

    def beside(place: Path) -> None:
        for path in drafts:
            shutil.copyfile(path, place / path.name)

    save_model(directory, result.model, result.vocabulary, provenance, card, beside)
    for line in result.lost:
        logger.info("not kept: %s", line)
    if drafts:
        logger.info("with the drafts that ship for it: choose mode exact and K=4")
    return result


def _drafts(source: str, checkpoint: Checkpoint) -> list[Path]:
    """Return the drafts that ship for a checkpoint; says so if it is another than they name."""
    if origin := origin_of(checkpoint.hashes.values()):
        return origin.drafts()
    if _named(source):
        logger.warning(f"{checkpoint.name} is not the file whose drafts ship: converted without")
    return []


def _named(source: str) -> Origin | None:
    """Return the model of which drafts ship that a person names."""
    names = {} if Path(source).exists() else {origin.name: origin for origin in origins()}
    return names.get(source)


def open_source(source: str, download: bool = False) -> Checkpoint:
    """Return the checkpoint that a person names. Raises `DataError` if there is none."""
    if origin := _named(source):
        return read_gguf(origin.weights())
    path = Path(source)
    if path.is_dir():
        ours = sorted(path.glob("*.gguf"))
        if ours and not (path / "config.json").is_file():
            return read_gguf(_only(ours, path))
        return read_directory(path, source)
    if path.is_file():
        if path.suffix != ".gguf":
            raise DataError(
                f"{source} is a file and no .gguf: give the directory of a checkpoint, or a GGUF "
                "file"
            )
        return read_gguf(path)
    return read_directory(fetched(source, download), source)


def converted(checkpoint: Checkpoint, languages: Languages = UNNAMED) -> Converted:
    """Return the model of a checkpoint, in evaluation mode and in the precision it is stored in.

    Raises `DataError` if its layout is unknown or has a part we have no brick for, or if a tensor
    is missing.
    """
    layout = _layout(checkpoint)
    try:
        config = layout.configure(checkpoint)
        stored = config.vocabulary_size
        vocabulary, mask_added = foreign_vocabulary(checkpoint, config, languages)
        config = _completed(config, checkpoint, vocabulary, mask_added)
        config = _beginning(config, checkpoint, vocabulary, languages)
        tensors = mapped(layout, config, checkpoint)
        _check_tables(tensors, stored, checkpoint)
        tensors = _with_own(tensors, config, mask_added)
        lost = _lost(checkpoint, config)
    except KeyError as error:
        raise DataError(
            f"{checkpoint.name}: config.json does not say {error}: download it again"
        ) from error
    except ValidationError as error:
        problem = first_problem(error, TransformerConfig)
        raise DataError(f"{checkpoint.name} cannot be converted: {problem}") from error
    except _WRONG as error:
        reason = " ".join(str(error).split())[:100]
        raise DataError(
            f"{checkpoint.name}: its configuration, tokenizer and tensors do not fit each other, "
            f"or hold a value of the wrong kind ({reason}): download it again"
        ) from error
    with torch.device("meta"):
        model = Transformer(config)
    model.load_state_dict(_fitting(tensors, model, checkpoint), assign=True)
    return Converted(model.eval(), vocabulary, checkpoint, lost)


def _layout(checkpoint: Checkpoint) -> Layout:
    kind = checkpoint.model_type
    if kind in WHY_NOT:
        raise DataError(
            f"{checkpoint.name} is of the layout {kind}, which cannot be converted: {WHY_NOT[kind]}"
        )
    if kind not in LAYOUTS:
        given = f"the model_type {kind}" if kind else "no model_type in its config.json"
        raise DataError(
            f"{checkpoint.name} has {given}; what can be converted is {', '.join(sorted(LAYOUTS))}"
        )
    return LAYOUTS[kind]


def _completed(
    config: TransformerConfig,
    checkpoint: Checkpoint,
    vocabulary: ForeignVocabulary,
    mask_added: bool,
) -> TransformerConfig:
    """Return the configuration with what the tokenizer decides.

    Rows of the tables that no token stands for are left out.
    """
    entries = len(vocabulary) - int(mask_added)
    beyond = range(config.vocabulary_size, entries)
    if not vocabulary.special.issuperset(beyond):
        raise DataError(
            f"{checkpoint.name} has a tokenizer of {entries} entries and a model for "
            f"{config.vocabulary_size}: "
            "use the files of one model"
        )
    further = _further_ends(checkpoint, vocabulary)
    listed = checkpoint.generation.get("bad_words_ids") or ()
    # transformers never bans an end by this list, and no token that it has no row for
    forbidden = {row[0] for row in listed if len(row) == 1} - {vocabulary.eos, *further}
    forbidden |= set(checkpoint.generation.get("suppress_tokens") or ())
    forbidden &= set(range(entries))
    decided = {
        "vocabulary_size": len(vocabulary),
        "pad_token": vocabulary.pad,
        "start_token": vocabulary.bos,
        "end_token": vocabulary.eos,
        "mask_token": vocabulary.mask,
        "never_written": tuple(sorted({vocabulary.mask, *forbidden, *beyond})),
        "further_ends": further,
    }
    return TransformerConfig.model_validate({**config.model_dump(), **decided})


def _beginning(
    config: TransformerConfig,
    checkpoint: Checkpoint,
    vocabulary: ForeignVocabulary,
    languages: Languages,
) -> TransformerConfig:
    """Return the configuration with the token that targets begin with, if there is one.

    Raises `UsageError` for languages that are given to a model without any.
    """
    if not config.encoder_layers:
        if languages != UNNAMED:
            raise UsageError(
                f"{checkpoint.name} is a causal model, which has no languages: leave them out"
            )
        return config
    first = first_token(checkpoint)
    if languages.target is not None:
        [[first]] = vocabulary.encode_rendered([vocabulary.settings["tgt_lang"]])
    if first is None and checkpoint.model_type in _MANY_LANGUAGES:
        logger.warning(
            "no language to write is named, so the model chooses one: convert again with "
            "--target-language"
        )
    return TransformerConfig.model_validate({**config.model_dump(), "first_token": first})


def _with_own(
    tensors: dict[str, Tensor], config: TransformerConfig, mask_added: bool
) -> dict[str, Tensor]:
    """Return their tensors with ours beside them: reach vectors of zero, so that K=1 is the
    original, and start symbols.
    """
    like = tensors["target_embedding.weight"]
    tensors["reach.beyond_one.weight"] = torch.zeros(
        config.max_group_size, config.hidden_size, dtype=like.dtype
    )
    if config.positions in ("rotary", "relative"):
        generator = torch.Generator().manual_seed(_SEED)
        far = torch.randn(config.max_group_size, config.hidden_size, generator=generator)
        far[0] = 0
        tensors["position.further_start.weight"] = (far * like.float().std()).to(like.dtype)
    for name in _TABLES:
        if name in tensors:
            tensors[name] = _table(tensors[name], config, mask_added)
    return tensors


def _check_tables(tensors: dict[str, Tensor], rows: int, checkpoint: Checkpoint) -> None:
    """Raise `DataError` for a table over a smaller vocabulary than config.json says."""
    for name in _TABLES:
        if name in tensors and (found := len(tensors[name])) < rows:
            raise DataError(
                f"{checkpoint.name} does not fit its config.json: what makes {name} has {found} "
                f"rows, and vocab_size is {rows}: use the files of one model"
            )


def _table(table: Tensor, config: TransformerConfig, mask_added: bool) -> Tensor:
    """Return a table over the vocabulary as long as that.

    A mask that was added begins as the mean of all other tokens, and so does what the tokenizer has
    and the original's table has not.
    """
    size = config.vocabulary_size
    if len(table) >= size and not mask_added:
        return table[:size]
    others = table[: config.mask_token] if mask_added else table
    mean = others.float().mean(dim=0, keepdim=True).to(table.dtype)
    longer = torch.cat([table[:size], mean.expand(max(size - len(table), 0), *table.shape[1:])])
    if mask_added:
        longer[config.mask_token] = mean[0]
    return longer


def _fitting(
    tensors: dict[str, Tensor], model: Transformer, checkpoint: Checkpoint
) -> dict[str, Tensor]:
    """Return the tensors, if they are those of the model.

    Raises `DataError` for one of another shape.
    """
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    assert expected.keys() == found.keys(), expected.keys() ^ found.keys()
    for name, shape in found.items():
        if shape != expected[name]:
            raise DataError(
                f"{checkpoint.name} does not fit its config.json: what makes {name} is {shape}, "
                "expected "
                f"{expected[name]}: use the files of one model"
            )
    return tensors


def _further_ends(checkpoint: Checkpoint, vocabulary: ForeignVocabulary) -> tuple[int, ...]:
    """Return the tokens that end a text beside `vocabulary.eos`."""
    return tuple(
        token
        for token in named_ends(checkpoint)
        if token != vocabulary.eos and 0 <= token < len(vocabulary)
    )


_CHOICES = (
    *("no_repeat_ngram_size", "encoder_no_repeat_ngram_size", "repetition_penalty"),
    *("encoder_repetition_penalty", "length_penalty", "exponential_decay_length_penalty"),
    *("num_beams", "min_length", "min_new_tokens", "sequence_bias", "begin_suppress_tokens"),
    *("guidance_scale", "penalty_alpha"),
)
_CHANCES = ("temperature", "top_k", "top_p", "min_p", "typical_p")
"""Settings of generation_config.json that are choices of decoding here."""


def _lost(checkpoint: Checkpoint, config: TransformerConfig) -> tuple[str, ...]:
    """Return what decoding here does not do although the checkpoint asks for it."""
    lost = []
    forced = checkpoint.generation.get("forced_bos_token_id")
    if forced is not None and not config.encoder_layers:
        lost.append(
            f"the first token {forced} is not forced: the model writes it itself, or a prompt "
            "begins with it"
        )
    given = checkpoint.generation or checkpoint.config
    if (forced := given.get("forced_eos_token_id")) is not None:
        lost.append(
            f"the last token {forced} is not forced (forced_eos_token_id): a text that is cut at "
            "its length limit ends without it"
        )
    given = checkpoint.generation
    if any(len(row) > 1 for row in given.get("bad_words_ids") or ()):
        lost.append("bad_words_ids of several tokens: ban words when decoding")
    for name in _CHOICES:
        if given.get(name) not in (None, 0, 1, 1.0, [], {}):
            lost.append(
                f"{name} {given[name]} of generation_config.json: ask for what you want when "
                "decoding"
            )
    if given.get("do_sample"):
        named = [f"{name} {given[name]}" for name in _CHANCES if given.get(name) is not None]
        lost.append(
            f"do_sample{' with ' if named else ''}{', '.join(named)} of generation_config.json: "
            "texts are greedy unless you ask for a temperature when decoding"
        )
    return tuple(lost)


def _only(files: list[Path], place: Path) -> Path:
    if len(files) > 1:
        raise DataError(
            f"{place} holds {len(files)} GGUF files: name one of them, such as {files[0].name}"
        )
    return files[0]


def model_card(
    checkpoint: Checkpoint,
    config: TransformerConfig,
    lost: tuple[str, ...],
    drafts: Sequence[Path] = (),
) -> str:
    """Return the text of the card.

    The licence is the one that the original's README.md names.
    """
    named = " and ".join(f"`{path.name}`" for path in drafts)
    kind = "encoder-decoder" if config.encoder_layers else "causal"
    lines = [
        f"# {_short(checkpoint)}, converted",
        "",
        f"A {kind} model of the layout `{checkpoint.model_type}`, made by `multistride convert`. "
        "At K=1 it writes "
        "what the original writes; for larger groups it has to be trained first.",
        "",
        f"- Licence: {_licence(checkpoint)}",
        f"- Original: `{_short(checkpoint)}`; SHA-256 of its files in `provenance.json`",
        f"- Vocabulary: {config.vocabulary_size:,} entries, tokenizer and special tokens of the "
        "original",
        *([f"- Drafts for exact mode, which come with multistride: {named}"] if drafts else []),
        *(f"- Not kept: {line}" for line in lost),
    ]
    return "\n".join(lines) + "\n"


def _short(checkpoint: Checkpoint) -> str:
    """Return the name of a model on the hub, or of the file or directory without the way to it."""
    path = Path(checkpoint.name)
    return path.name if path.exists() else checkpoint.name


def _licence(checkpoint: Checkpoint) -> str:
    readme = checkpoint.directory / "README.md" if checkpoint.directory else None
    text = (
        readme.read_text(encoding="utf-8", errors="replace") if readme and readme.is_file() else ""
    )
    found = _LICENCE.search(text) or _LICENCE.search(
        f"license: {checkpoint.config.get('license', '')}"
    )
    return (
        f"{found[1]} (that of the original)"
        if found
        else "that of the original, which does not name it here"
    )
