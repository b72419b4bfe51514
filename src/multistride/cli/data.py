"""The verbs that make training data: `prepare`, `distill`, `phrases`."""

from __future__ import annotations

import logging
from itertools import zip_longest
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from pydantic import BaseModel, ConfigDict, Field
from pydantic.config import JsonDict

from multistride.cli.console import print_json, two
from multistride.cli.fields import Fields, option_name
from multistride.cli.options import (
    Cluster,
    DirectoryOption,
    JsonOption,
    Machine,
    NeededModelOption,
    model_directory,
)
from multistride.distill.config import DistillConfig
from multistride.errors import UsageError
from multistride.shipped import refuse_to_change
from multistride.untrusted import layout

logger = logging.getLogger(__name__)

_PAIRS: JsonDict = {"panel": "Parallel text, for translation"}
_TEXTS: JsonDict = {"panel": "Texts, for causal models"}
_RECORDS: JsonDict = {"panel": "Documents with labels, for classifiers"}
_VOCABULARY: JsonDict = {"panel": "Vocabulary"}


class PrepareOptions(BaseModel):
    """Options of `prepare`, which reads pairs, texts or records (`kind`)."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    train_source: tuple[Path, ...] = Field(
        (),
        description="Source text, one a line (.gz and .xz too). Repeat it to mix corpora.",
        json_schema_extra=_PAIRS,
    )
    train_target: tuple[Path, ...] = Field(
        (),
        description="Target text, line by line; the n-th belongs to the n-th source.",
        json_schema_extra=_PAIRS,
    )
    train_pairs: tuple[Path, ...] = Field(
        (), description="Or both sides in one .tsv or .jsonl. Repeatable.", json_schema_extra=_PAIRS
    )
    validation_source: Path | None = Field(
        None, description="Source text for validation.", json_schema_extra=_PAIRS
    )
    validation_target: Path | None = Field(
        None, description="Target text for validation.", json_schema_extra=_PAIRS
    )
    validation_pairs: Path | None = Field(
        None, description="Or both sides for validation in one file.", json_schema_extra=_PAIRS
    )
    columns: str = Field(
        "0,1",
        description="Columns of source and target in a .tsv, counted from 0.",
        json_schema_extra=_PAIRS,
    )
    max_tokens: int = Field(
        255,
        description="Drop pairs with more tokens than this on either side.",
        json_schema_extra=_PAIRS,
    )
    max_length_ratio: float = Field(
        4.0,
        description="Drop pairs with more than this many times as many tokens on one side as on "
        "the other.",
        json_schema_extra=_PAIRS,
    )
    keep_duplicates: bool = Field(
        False,
        description="Keep a pair as often as it occurs, for pairs that are to weigh more.",
        json_schema_extra=_PAIRS,
    )
    train_text: tuple[Path, ...] = Field(
        (), description="Text files, or .jsonl. Repeatable.", json_schema_extra=_TEXTS
    )
    validation_text: tuple[Path, ...] = Field(
        (), description="Texts for validation. Repeatable.", json_schema_extra=_TEXTS
    )
    train_written: tuple[Path, ...] = Field(
        (),
        description="Tokens that a causal model wrote (see `multistride distill`). Repeatable.",
        json_schema_extra=_TEXTS,
    )
    validation_written: tuple[Path, ...] = Field(
        (),
        description="Tokens that a causal model wrote, for validation. Repeatable.",
        json_schema_extra=_TEXTS,
    )
    documents: Literal["file", "paragraph", "line"] = Field(
        "file",
        description="What is one document: a whole text file, a paragraph or a line.",
        json_schema_extra=_TEXTS,
    )
    field: str = Field(
        "text", description="Field of a .jsonl that holds the text.", json_schema_extra=_TEXTS
    )
    window: int = Field(
        256,
        description="Tokens per training window: at most the context of the model.",
        json_schema_extra=_TEXTS,
    )
    carry: int | None = Field(
        None,
        description="Tokens that a window repeats from the previous one (default: an eighth of "
        "the window).",
        json_schema_extra=_TEXTS,
    )
    train_records: tuple[Path, ...] = Field(
        (), description=".jsonl with a text and a label. Repeatable.", json_schema_extra=_RECORDS
    )
    validation_records: tuple[Path, ...] = Field(
        (), description="Records for validation. Repeatable.", json_schema_extra=_RECORDS
    )
    fields: str | None = Field(
        None,
        description="Fields of a .jsonl: source and target of pairs (default: source,target), text "
        "and label of records (default: text,label).",
        json_schema_extra={"panel": "Input"},
    )
    vocabulary: Path | None = Field(
        None,
        description="Use the tokenizer of this model or data directory, or of a model that ships.",
        json_schema_extra=_VOCABULARY,
    )
    vocabulary_size: int = Field(
        8000, description="Maximum number of tokens.", json_schema_extra=_VOCABULARY
    )
    vocabulary_kind: Literal["bpe", "words"] = Field(
        "bpe",
        description="bpe (any text), or words (symbols separated by spaces).",
        json_schema_extra=_VOCABULARY,
    )

    @property
    def kind(self) -> str:
        """Return "pairs", "texts" or "records". Raises `UsageError` for files of two kinds."""
        given: dict[str, tuple[object, ...]] = {
            "texts": (
                self.train_text,
                self.train_written,
                self.validation_text,
                self.validation_written,
            ),
            "records": (self.train_records, self.validation_records),
            "pairs": (
                self.train_source,
                self.train_target,
                self.train_pairs,
                self.validation_source,
                self.validation_target,
                self.validation_pairs,
            ),
        }
        kinds = [kind for kind, paths in given.items() if any(paths)]
        if len(kinds) > 1:
            raise UsageError(
                "texts, pairs and records are for different models, and two were given: prepare "
                "them apart"
            )
        return kinds[0] if kinds else "pairs"

    def refuse_unused(self, kind: str) -> None:
        """Raise `UsageError` for an option of another kind, at its default value too."""
        of_kind = {"pairs": _PAIRS, "texts": _TEXTS, "records": _RECORDS}
        for name, info in type(self).model_fields.items():
            for other, panel in of_kind.items():
                mine = info.json_schema_extra != panel or other == kind
                if name in self.model_fields_set and not mine:
                    raise UsageError(
                        f"{option_name(name, info)} was given, which is for {_KINDS[other]}, and "
                        f"{_KINDS[kind]} is prepared: leave it out"
                    )

    def refuse_idle(self) -> None:
        """Raise `UsageError` for an option that would decide nothing beside the others."""
        given = self.model_fields_set
        for name in ("vocabulary_size", "vocabulary_kind"):
            if name in given and self.vocabulary is not None:
                raise UsageError(
                    f"{option_name(name, type(self).model_fields[name])} was given, and the "
                    f"vocabulary is that of {self.vocabulary}: leave one of them out"
                )
        tables = [*self.train_pairs, self.validation_pairs or Path()]
        texts = [*self.train_text, *self.validation_text, *tables]
        records = [*self.train_records, *self.validation_records]
        readers = {
            "columns": (".tsv", tables),
            "fields": (".jsonl", [*tables, *records]),
            "field": (".jsonl", texts),
        }
        for name, (suffix, paths) in readers.items():
            if name in given and not any(layout(path) == suffix for path in paths):
                if name == "fields" and records:
                    continue  # records are .jsonl whatever they are called
                raise UsageError(f"--{name} was given, and no {suffix} file is read: leave it out")
        read = (*self.train_text, *self.validation_text)
        if "documents" in given and all(layout(path) == ".jsonl" for path in read):
            raise UsageError(
                "--documents was given, which is for plain text files, and none is read: leave it "
                "out"
            )
        for name in ("columns", "fields"):
            value = getattr(self, name)
            first, _, second = (value or "").partition(",")
            if value and first.strip() == second.strip():
                raise UsageError(
                    f"--{name} names {name[:-1]} {first} twice, and source and target (or text and "
                    "label) are different ones: give two"
                )


_KINDS = {"pairs": "parallel text", "texts": "text", "records": "records"}


def prepare(
    *,
    options: Annotated[PrepareOptions, Fields()],
    output: DirectoryOption,
    as_json: JsonOption = False,
) -> None:
    """Prepare training data: clean text, build the vocabulary, write token arrays.

    The data is parallel text for translation models, text for causal models, or documents with
    labels for classifiers.

    Example: multistride prepare --train-source train.en --train-target train.de --validation-source
    val.en --validation-target val.de --output data

    Example: multistride prepare --train-text books.txt --documents paragraph --output data
    """
    kind = options.kind
    options.refuse_unused(kind)
    options.refuse_idle()
    run = {"pairs": _prepare_pairs, "texts": _prepare_texts, "records": _prepare_records}[kind]
    manifest = run(options, output)
    logger.info(f"written: {output}")
    if as_json:
        print_json(manifest)


def _check_sides(split: str, sources: int, targets: int) -> None:
    """Raise `UsageError` unless every source of a split has its target."""
    if sources != targets:
        raise UsageError(
            f"--{split}-source was given {sources} times and --{split}-target {targets} times: "
            "give the target of every source"
        )


def _prepare_pairs(options: PrepareOptions, output: Path) -> dict[str, Any]:
    from multistride.config import validate
    from multistride.data.prepare import prepare as prepare_data
    from multistride.data.prepare_pairs import PrepareConfig

    _check_sides("train", len(options.train_source), len(options.train_target))
    validated = options.validation_source is not None, options.validation_target is not None
    _check_sides("validation", *map(int, validated))
    columns = two(options.columns, "--columns")
    names = two(options.fields or "source,target", "--fields")

    def corpus(source: Path | None, target: Path | None, both: Path | None) -> dict[str, Any]:
        places = {"source_column": columns[0], "target_column": columns[1]}
        fields = {"source_field": names[0], "target_field": names[1]}
        return {"source": source, "target": target, "pairs": both, **places, **fields}

    sides = zip_longest(options.train_source, options.train_target)
    training = [corpus(*both, None) for both in sides]
    training += [corpus(None, None, table) for table in options.train_pairs]
    validation = (options.validation_source, options.validation_target, options.validation_pairs)
    tree = {
        "output": output,
        "vocabulary_size": options.vocabulary_size,
        "vocabulary_kind": options.vocabulary_kind,
        "vocabulary_from": options.vocabulary,
        "cleaning": {
            "max_tokens": options.max_tokens,
            "max_length_ratio": options.max_length_ratio,
            "drop_duplicates": not options.keep_duplicates,
        },
        "train": training or [corpus(None, None, None)],
        "validation": [corpus(*validation)] if any(validation) else [],
    }
    return prepare_data(validate(PrepareConfig, tree, "prepare"))


def _prepare_texts(options: PrepareOptions, output: Path) -> dict[str, Any]:
    from multistride.config import validate
    from multistride.data.prepare import prepare as prepare_data
    from multistride.data.prepare_text import TextPrepareConfig

    tree = {
        "output": output,
        "train": {"documents": options.train_text, "written": options.train_written},
        "validation": {"documents": options.validation_text, "written": options.validation_written},
        "vocabulary_from": options.vocabulary,
        "vocabulary_size": options.vocabulary_size,
        "vocabulary_kind": options.vocabulary_kind,
        **options.model_dump(include={"documents", "field", "window", "carry"}),
    }
    return prepare_data(validate(TextPrepareConfig, tree, "prepare"))


def _prepare_records(options: PrepareOptions, output: Path) -> dict[str, Any]:
    from multistride.config import validate
    from multistride.data.prepare import prepare as prepare_data
    from multistride.data.prepare_records import RecordsPrepareConfig

    text_field, label_field = two(options.fields or "text,label", "--fields")
    tree = {
        "output": output,
        "vocabulary_size": options.vocabulary_size,
        "vocabulary_kind": options.vocabulary_kind,
        "vocabulary_from": options.vocabulary,
        "train": options.train_records,
        "validation": options.validation_records,
        "text_field": text_field,
        "label_field": label_field,
    }
    return prepare_data(validate(RecordsPrepareConfig, tree, "prepare"))


def distill(
    *,
    config: Annotated[DistillConfig, Fields()],
    machine: Annotated[Machine, Fields(only=("device", "threads"))],
    cluster: Annotated[Cluster, Fields()],
    as_json: JsonOption = False,
) -> None:
    """Translate a training corpus with a teacher (sequence-level distillation).

    Line n of the output belongs to line n of the source. A causal model continues prompts instead:
    the output has one JSON object of token ids a line, which `prepare --train-written` reads.

    After Ctrl-C or a crash the same command resumes; it does nothing where all is done. A line that
    cannot be translated is empty.

    Example: multistride distill --model TEACHER/best --source train.en.gz --output distilled.de
    """
    from multistride.cli.sharing import spread
    from multistride.device import set_threads
    from multistride.distill.run import distill as distill_corpus

    config = config.model_copy(update={"model": model_directory(config.model)})
    threads = set_threads(machine.threads)
    with spread(cluster, machine) as shares:
        threads = threads if shares is None else machine.threads or 1
        manifest = distill_corpus(config, device=machine.device, threads=threads, spread=shares)
    done, lines = manifest["translated_lines"], manifest["lines"]
    logger.info(f"written: {config.output}, {done:,} of {lines:,} lines done")
    if as_json:
        print_json(manifest)


def phrases(
    *,
    model: NeededModelOption,
    data: Annotated[
        Path,
        typer.Option(
            help="Prepared text that the model wrote (see `multistride distill`).",
            rich_help_panel="Input",
        ),
    ],
    longest: Annotated[
        int,
        typer.Option(
            min=1,
            max=8,
            help="Length of the longest phrases in tokens.",
            rich_help_panel="Decoding",
        ),
    ] = 4,
    min_count: Annotated[
        int,
        typer.Option(
            min=1,
            help="Leave out phrases that the text has fewer times: 2 makes a table several times "
            "as small.",
            rich_help_panel="Decoding",
        ),
    ] = 1,
) -> None:
    """Build the table of phrases from which exact mode copies drafts.

    The table is written into the model directory. Nothing is trained and the text that exact mode
    writes stays the same; the closer the data is to that text, the more tokens a step writes.
    `--drafts text` then drafts from this table and the text so far alone.

    Example: multistride phrases --model models/smollm2 --data runs/data
    """
    from multistride.decode.phrases import PHRASES
    from multistride.distill.phrases import store_phrases

    refuse_to_change(model)
    rows = store_phrases(model, data, longest, min_count)
    logger.info(f"written: {model / PHRASES}, {rows:,} phrases")
