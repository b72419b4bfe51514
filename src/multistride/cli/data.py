"""The verbs that make training text, and what is made of it alone: `prepare`, `distill`,
`phrases`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from multistride.cli.console import print_json, say, two
from multistride.cli.options import DeviceOption, JsonOption, ThreadsOption
from multistride.errors import UsageError

TextOption = Annotated[
    list[Path] | None,
    typer.Option(help="For causal models instead: text files, or .jsonl. Repeat it."),
]
WrittenOption = Annotated[
    list[Path] | None,
    typer.Option(help="Tokens that a causal model wrote: see `multistride distill`."),
]
RecordsOption = Annotated[
    list[Path] | None,
    typer.Option(help="For classifiers instead: .jsonl with a text and a label. Repeat it."),
]
FieldsOption = Annotated[
    str | None,
    typer.Option(
        help="Source and target field of a .jsonl (source,target); of records text,label."
    ),
]


def prepare(
    output: Annotated[Path, typer.Option(help="Directory to write.")],
    train_source: Annotated[
        list[Path] | None,
        typer.Option(help="Source text, one a line (.gz and .xz too). Repeat it to mix corpora."),
    ] = None,
    train_target: Annotated[
        list[Path] | None,
        typer.Option(help="Target text, line by line; the n-th belongs to the n-th source."),
    ] = None,
    train_pairs: Annotated[
        list[Path] | None, typer.Option(help="Or both sides in one .tsv or .jsonl.")
    ] = None,
    validation_source: Annotated[Path | None, typer.Option(help="The same for validation.")] = None,
    validation_target: Annotated[Path | None, typer.Option()] = None,
    validation_pairs: Annotated[Path | None, typer.Option()] = None,
    train_text: TextOption = None,
    validation_text: Annotated[
        list[Path] | None, typer.Option(help="The same for validation.")
    ] = None,
    train_written: WrittenOption = None,
    validation_written: Annotated[
        list[Path] | None, typer.Option(help="The same for validation.")
    ] = None,
    train_records: RecordsOption = None,
    validation_records: Annotated[
        list[Path] | None, typer.Option(help="The same for validation.")
    ] = None,
    documents: Annotated[
        str | None, typer.Option(help="Text: a document is a file, a paragraph or a line.")
    ] = None,
    field: Annotated[str | None, typer.Option(help="Text: field of a .jsonl (text).")] = None,
    window: Annotated[
        int | None, typer.Option(help="Text: tokens of a window, the model's context (256).")
    ] = None,
    carry: Annotated[
        int | None, typer.Option(help="Text: tokens a window has of the one before it (1/8).")
    ] = None,
    columns: Annotated[
        str, typer.Option(help="Source and target column of a .tsv, from 0.")
    ] = "0,1",
    fields: FieldsOption = None,
    vocabulary: Annotated[
        Path | None, typer.Option(help="Use the tokenizer of this model or data directory.")
    ] = None,
    vocabulary_size: Annotated[
        int, typer.Option(help="Entries of the joint vocabulary, at most.")
    ] = 8000,
    vocabulary_kind: Annotated[
        str, typer.Option(help="bpe (any text) or words (blank-separated symbols).")
    ] = "bpe",
    max_tokens: Annotated[int, typer.Option(help="Drop pairs with a longer side.")] = 255,
    max_length_ratio: Annotated[
        float, typer.Option(help="Drop pairs of more unequal lengths.")
    ] = 4.0,
    as_json: JsonOption = False,
) -> None:
    """Clean text, build the vocabulary, write token arrays.

    Parallel text for translation, (--train-text) texts for causal models, cut into windows, or
    (--train-records) documents with labels for classifiers.

    Example: multistride prepare --train-source train.en --train-target train.de
    --validation-source val.en --validation-target val.de --output runs/data

    Distilled and real translations together: --train-source train.en --train-target distilled.de
    --train-source train.en --train-target train.de
    """
    texts = {"documents": documents, "field": field, "window": window, "carry": carry}
    files = (train_text, train_written, validation_text, validation_written)
    pairs = (
        train_source,
        train_target,
        train_pairs,
        validation_source,
        validation_target,
        validation_pairs,
    )
    records = (train_records, validation_records)
    if sum(map(any, (files, pairs, records))) > 1:
        raise UsageError(
            "texts, pairs and records are for different models, and two were given: prepare them apart"
        )
    sizes = {
        "vocabulary_size": vocabulary_size,
        "vocabulary_kind": vocabulary_kind,
        "vocabulary_from": vocabulary,
    }
    if any(records):
        _prepare_records(
            {"output": output, **sizes}, records, texts, fields or "text,label", as_json
        )
        return
    if any(files):
        _prepare_text(output, files, texts, vocabulary, vocabulary_size, as_json)
        return
    cleaning = {"max_tokens": max_tokens, "max_length_ratio": max_length_ratio}
    tree = {"output": output, **sizes, "cleaning": cleaning}
    _prepare_pairs(tree, pairs, texts, columns, fields or "source,target", as_json)


def _refuse_unused(texts: dict[str, Any]) -> None:
    """Options for text that was not given."""
    if unused := [f"--{name}" for name, value in texts.items() if value is not None]:
        raise UsageError(
            f"{unused[0]} was given, which is for text: give --train-text, or leave it out"
        )


def _prepare_records(
    tree: dict[str, Any],
    records: tuple[list[Path] | None, list[Path] | None],
    texts: dict[str, Any],
    fields: str,
    as_json: bool,
) -> None:
    """`prepare` for records with labels."""
    _refuse_unused(texts)
    text_field, label_field = two(fields, "--fields")

    from multistride.config import validate
    from multistride.data.prepare_records import RecordsPrepareConfig, prepare_records

    files = {"train": records[0] or (), "validation": records[1] or ()}
    names = {"text_field": text_field, "label_field": label_field}
    manifest = prepare_records(
        validate(RecordsPrepareConfig, {**tree, **files, **names}, "prepare"), say
    )
    say(f"written: {tree['output']}")
    if as_json:
        print_json(manifest)


def _prepare_pairs(
    tree: dict[str, Any],
    pairs: tuple[Any, ...],
    texts: dict[str, Any],
    columns: str,
    fields: str,
    as_json: bool,
) -> None:
    """`prepare` for parallel text; `texts` are options that do not belong to it."""
    _refuse_unused(texts)

    from itertools import zip_longest

    from multistride.config import validate
    from multistride.data.prepare import PrepareConfig
    from multistride.data.prepare import prepare as prepare_data

    def corpus(source: Path | None, target: Path | None, both: Path | None) -> dict[str, Any]:
        first, second = two(columns, "--columns"), two(fields, "--fields")
        places = {"source_column": first[0], "target_column": first[1]}
        names = {"source_field": second[0], "target_field": second[1]}
        return {"source": source, "target": target, "pairs": both, **places, **names}

    sources, targets, tables, *validation = pairs
    training = [corpus(*both, None) for both in zip_longest(sources or (), targets or ())]
    training += [corpus(None, None, table) for table in tables or ()]
    tree["train"] = training or [corpus(None, None, None)]
    tree["validation"] = [corpus(*validation)] if any(validation) else []
    manifest = prepare_data(validate(PrepareConfig, tree, "prepare"), say)
    say(f"written: {tree['output']}")
    if as_json:
        print_json(manifest)


def _prepare_text(
    output: Path,
    files: tuple[list[Path] | None, ...],
    texts: dict[str, Any],
    vocabulary: Path | None,
    vocabulary_size: int,
    as_json: bool,
) -> None:
    """Texts for causal models; options that were left out have the defaults of
    `TextPrepareConfig`.
    """
    from multistride.config import validate
    from multistride.data.prepare_text import TextPrepareConfig, prepare_text

    train, train_written, validation, validation_written = (given or () for given in files)
    tree = {
        "output": output,
        "train": {"documents": train, "written": train_written},
        "validation": {"documents": validation, "written": validation_written},
        "vocabulary_from": vocabulary,
        "vocabulary_size": vocabulary_size,
        **{name: value for name, value in texts.items() if value is not None},
    }
    manifest = prepare_text(validate(TextPrepareConfig, tree, "prepare"), say)
    say(f"written: {output}")
    if as_json:
        print_json(manifest)


def distill(
    model: Annotated[
        Path, typer.Option(help="The teacher: a model directory, for example RUN/best.")
    ],
    source: Annotated[Path, typer.Option(help="Source text, one a line (.gz and .xz too).")],
    output: Annotated[
        Path, typer.Option(help="File to write, line by line; OUTPUT.json tells how it was made.")
    ],
    target: Annotated[
        Path | None, typer.Option(help="Real translations, only to compare with.")
    ] = None,
    validation_source: Annotated[
        Path | None, typer.Option(help="Measure the teacher on this text ...")
    ] = None,
    validation_reference: Annotated[
        Path | None, typer.Option(help="... against these references.")
    ] = None,
    beam: Annotated[
        int | None,
        typer.Option(
            help="Hypotheses kept while searching (4); 1 is greedy, as causal models are."
        ),
    ] = None,
    length_penalty: Annotated[
        float, typer.Option(help="Rank by log-probability / length ** this.")
    ] = 1.0,
    engine: Annotated[
        str,
        typer.Option(
            help="ctranslate2 (int8, extra [bench]), eager, or auto: the first that works."
        ),
    ] = "auto",
    max_tokens: Annotated[
        int, typer.Option(help="Causal: most tokens written after a prompt.")
    ] = 128,
    temperature: Annotated[
        float, typer.Option(help="Causal: above 0, tokens are drawn by chance.")
    ] = 0.0,
    seed: Annotated[int, typer.Option(help="Causal: seed of the draws.")] = 0,
    chat: Annotated[
        bool, typer.Option("--chat", help="Causal: each line is a user's turn in a chat.")
    ] = False,
    precision: Annotated[
        str, typer.Option(help="Causal: float32, or bfloat16 where the CPU has it.")
    ] = "float32",
    batch_size: Annotated[int, typer.Option(help="Sentences decoded together, at most.")] = 64,
    chunk: Annotated[
        int, typer.Option(help="Lines of a part: the work that a crash can lose.")
    ] = 2000,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an output that is there.")
    ] = False,
    device: DeviceOption = "auto",
    threads: ThreadsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Translate a training corpus with a teacher (distillation).

    A causal model continues prompts instead, for learning to draft its own text: the output has one
    JSON object of token ids a line, which `prepare --train-written` reads.

    Line n of the output belongs to line n of the source, always. The same command goes on where it
    stopped, after Ctrl-C or a crash, and does nothing where all is done. A line that cannot be
    translated is empty.

    Example: multistride distill --model TEACHER/best --source train.en.gz --output
    train.distilled.de
    """
    from multistride.config import validate
    from multistride.distill.config import DistillConfig

    files = {
        "model": model,
        "source": source,
        "output": output,
        "target": target,
        "overwrite": overwrite,
    }
    checks = {"validation_source": validation_source, "validation_reference": validation_reference}
    search = {"beam": beam, "length_penalty": length_penalty, "engine": engine}
    sizes = {"batch_size": batch_size, "chunk": chunk}
    drawing = {"temperature": temperature, "seed": seed}
    causal = {"max_tokens": max_tokens, "chat": chat, "precision": precision, **drawing}
    config = validate(DistillConfig, {**files, **checks, **search, **sizes, **causal}, "distill")

    from multistride.device import set_threads
    from multistride.distill.run import distill as distill_corpus

    manifest = distill_corpus(config, say, device=device, threads=set_threads(threads))
    say(f"written: {output}, {manifest['translated_lines']:,} of {manifest['lines']:,} lines done")
    if as_json:
        print_json(manifest)


def phrases(
    model: Annotated[Path, typer.Option(help="Model directory; phrases.npy is written into it.")],
    data: Annotated[
        Path, typer.Option(help="Prepared text that the model wrote: see `multistride distill`.")
    ],
    longest: Annotated[int, typer.Option(min=1, max=8, help="Tokens of the longest phrases.")] = 4,
) -> None:
    """Store what most often followed each phrase, for exact mode to draft from.

    Nothing is trained, and what is written stays the same; the closer the text is to what the model
    will write, the more tokens a pass. `--drafts text` then drafts from the table and the text so
    far alone.

    Example: multistride phrases --model models/smollm2 --data runs/data
    """
    from multistride.decode.phrases import PHRASES, store_phrases

    rows = store_phrases(model, data, longest)
    say(f"written: {model / PHRASES}, {rows:,} phrases")
