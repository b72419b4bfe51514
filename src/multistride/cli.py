"""The command `multistride`. Data on stdout, everything else on stderr; heavy imports only inside the verbs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from multistride.console import number, numbers, print_json, reading, run, say, two, writing
from multistride.errors import DataError, UsageError
from multistride.version import __version__

if TYPE_CHECKING:
    from multistride.translator import Translator

app = typer.Typer(
    name="multistride",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Take your translation model, make it write K tokens per step, prove what that costs.",
    epilog="Exit codes: 0 ok, 1 run-time failure, 2 usage or configuration, 3 missing optional extra, "
    "4 bad data or checkpoint, 5 a gate failed, 130 interrupted (resumable).",
)

ModelOption = Annotated[Path, typer.Option("--model", help="Model directory, for example RUN/best.")]
GroupSizesOption = Annotated[str, typer.Option("--group-size", help="Tokens per step (K), comma-separated.")]
DeviceOption = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")]
ThreadsOption = Annotated[int | None, typer.Option(help="CPU threads; left out: PyTorch's choice.")]
BeamOption = Annotated[int, typer.Option(min=1, help="Hypotheses kept while searching; 1 is greedy.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"multistride {__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def _options(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


@app.command()
def prepare(
    output: Annotated[Path, typer.Option(help="Directory to write.")],
    train_source: Annotated[Path | None, typer.Option(help="Source text, one a line (.gz and .xz too).")] = None,
    train_target: Annotated[Path | None, typer.Option(help="Target text, line by line.")] = None,
    train_pairs: Annotated[Path | None, typer.Option(help="Or both sides in one .tsv or .jsonl.")] = None,
    validation_source: Annotated[Path | None, typer.Option(help="The same for validation.")] = None,
    validation_target: Annotated[Path | None, typer.Option()] = None,
    validation_pairs: Annotated[Path | None, typer.Option()] = None,
    columns: Annotated[str, typer.Option(help="Source and target column of a .tsv, from 0.")] = "0,1",
    fields: Annotated[str, typer.Option(help="Source and target field of a .jsonl.")] = "source,target",
    vocabulary: Annotated[
        Path | None, typer.Option(help="Use the tokenizer of this model or data directory.")
    ] = None,
    vocabulary_size: Annotated[int, typer.Option(help="Entries of the joint vocabulary, at most.")] = 8000,
    vocabulary_kind: Annotated[str, typer.Option(help="bpe (any text) or words (blank-separated symbols).")] = "bpe",
    max_tokens: Annotated[int, typer.Option(help="Drop pairs with a longer side.")] = 255,
    max_length_ratio: Annotated[float, typer.Option(help="Drop pairs of more unequal lengths.")] = 4.0,
    as_json: JsonOption = False,
) -> None:
    """Clean parallel text, build the vocabulary, write token arrays.

    Example: multistride prepare --train-source train.en --train-target train.de
    --validation-source val.en --validation-target val.de --output runs/data
    """
    from multistride.config import validate
    from multistride.data.prepare import PrepareConfig
    from multistride.data.prepare import prepare as prepare_data

    def corpus(source: Path | None, target: Path | None, pairs: Path | None) -> dict[str, Any]:
        first, second = two(columns, "--columns"), two(fields, "--fields")
        places = {"source_column": first[0], "target_column": first[1]}
        names = {"source_field": second[0], "target_field": second[1]}
        return {"source": source, "target": target, "pairs": pairs, **places, **names}

    validation = (validation_source, validation_target, validation_pairs)
    tree = {
        "output": output,
        "train": [corpus(train_source, train_target, train_pairs)],
        "validation": [corpus(*validation)] if any(validation) else [],
        "vocabulary_size": vocabulary_size,
        "vocabulary_kind": vocabulary_kind,
        "vocabulary_from": vocabulary,
        "cleaning": {"max_tokens": max_tokens, "max_length_ratio": max_length_ratio},
    }
    manifest = prepare_data(validate(PrepareConfig, tree, "prepare"), say)
    say(f"written: {output}")
    if as_json:
        print_json(manifest)


@app.command()
def train(
    config: Annotated[Path, typer.Argument(help="YAML file; see examples/.")],
    settings: Annotated[list[str] | None, typer.Option("--set", help="Override: section.key=value.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run if it was begun.")] = False,
    threads: ThreadsOption = None,
) -> None:
    """Train a model; Ctrl-C leaves a checkpoint, --resume continues.

    Example: multistride train examples/multi30k/autoregressive.yaml --set training.updates=100
    """
    from multistride.config import read_config
    from multistride.train.config import RunConfig

    chosen = read_config(config, RunConfig, settings or ())

    from multistride.data.batch import PreparedData
    from multistride.device import set_threads
    from multistride.evaluate.validation import validator
    from multistride.train.loop import train as train_model
    from multistride.train.monitor import Monitor

    set_threads(threads)
    sentences = chosen.training.validate_sentences
    data = PreparedData.load(chosen.data)
    validate = validator(data, tuple(chosen.groups.sizes), sentences) if sentences else None
    directory = train_model(chosen, validate, Monitor(chosen.run.name), resume)
    say(f"best checkpoint: {directory.path / 'best'}")


@app.command()
def average(
    models: Annotated[list[Path], typer.Argument(help="Model directories, or one run directory with --last.")],
    output: Annotated[Path, typer.Option(help="Model directory to write.")],
    last: Annotated[int | None, typer.Option(min=2, help="Take this many newest checkpoints of a run.")] = None,
) -> None:
    """Write the model whose weights are the mean of several checkpoints.

    Example: multistride average runs/many --last 5 --output runs/many/mean
    """
    from multistride.train.average import average_models, newest_checkpoints

    if last is not None and len(models) != 1:
        raise UsageError(f"--last takes one run directory, {len(models)} were given")
    average_models(models if last is None else newest_checkpoints(models[0], last), output)
    say(f"written: {output}")


@app.command()
def translate(
    model: ModelOption,
    group_size: Annotated[str, typer.Option(help="Tokens per step (K); 1 is autoregressive.")] = "1",
    mode: Annotated[str, typer.Option(help="fast: every token of a group is kept.")] = "fast",
    beam: BeamOption = 1,
    batch_size: Annotated[int, typer.Option(min=1, help="Sentences decoded together.")] = 32,
    buffer: Annotated[int, typer.Option(min=1, help="Lines read before the first is written.")] = 1024,
    source: Annotated[Path | None, typer.Option("--input", help="Read this file instead of stdin.")] = None,
    output: Annotated[
        Path | None, typer.Option(help="Write this file (whole or not at all) instead of stdout.")
    ] = None,
    trace: Annotated[Path | None, typer.Option(help="Write one JSON line per step to this file.")] = None,
    device: DeviceOption = "auto",
    threads: ThreadsOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object per line instead of text.")] = False,
) -> None:
    """Translate stdin to stdout: n lines in, n lines out, in order.

    A line that cannot be translated becomes an empty line; stderr names it, and the exit code is 4.

    Example: echo "Two dogs run." | multistride translate --model RUN/best --group-size 4
    """
    size = number(group_size)

    from multistride.decode.options import DecodeOptions
    from multistride.device import set_threads
    from multistride.lines import translate_stream
    from multistride.translator import Translator

    set_threads(threads)
    translator = Translator.load(model, device)
    DecodeOptions.made(group_size=size, mode=mode, beam=beam).checked(translator.config)
    _note_untrained(size, translator)
    with reading(source) as lines, writing(output) as text, writing(trace, optional=True) as steps:
        results = translator.translate_lines(lines, size, mode, batch_size, buffer, beam)
        failed = translate_stream(results, translator.vocabulary, text, steps, as_json, say)
    if failed:
        raise DataError(f"{failed} of the lines could not be translated (named above); their lines are empty")


@app.command()
def evaluate(
    model: ModelOption,
    source: Annotated[Path, typer.Option(help="Source text, one a line.")],
    reference: Annotated[Path, typer.Option(help="Reference text, line by line.")],
    group_size: GroupSizesOption = "1",
    mode: Annotated[str, typer.Option(help="fast: every token of a group is kept.")] = "fast",
    beam: BeamOption = 1,
    kind: Annotated[
        str, typer.Option(help="translation or phonemes: which measures the table shows.")
    ] = "translation",
    tokenize: Annotated[str, typer.Option(help="sacreBLEU tokenizer: 13a, zh, char, none, ...")] = "13a",
    name: Annotated[str | None, typer.Option(help="Title of the result.")] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Sentences decoded together for throughput.")] = 32,
    latency_sentences: Annotated[int, typer.Option(min=1, help="Sentences timed alone.")] = 100,
    examples: Annotated[int, typer.Option(min=0, help="Worked examples kept in the result.")] = 3,
    limit: Annotated[int | None, typer.Option(min=1, help="Use only the first lines.")] = None,
    output: Annotated[Path | None, typer.Option(help="Write the result object to this file as well.")] = None,
    device: DeviceOption = "auto",
    threads: ThreadsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Measure quality, steps and latency by group size, greedily or with a beam, from one checkpoint.

    Example: multistride evaluate --model RUN/best --source test.en --reference test.de --group-size 1,2,4 --json
    """
    sizes = numbers(group_size)

    from rich.console import Console

    from multistride.config import validate
    from multistride.device import set_threads
    from multistride.evaluate.run import EvaluationRequest
    from multistride.evaluate.run import evaluate as measure
    from multistride.files import write_json
    from multistride.report.tables import quality_table
    from multistride.translator import Translator

    files = {"model": model, "source": source, "reference": reference, "name": name or model.parent.name}
    decoding = {"group_sizes": sizes, "mode": mode, "beam": beam, "batch_size": batch_size, "limit": limit}
    measures = {"kind": kind, "tokenize": tokenize, "latency_sentences": latency_sentences, "examples": examples}
    request = validate(EvaluationRequest, {**files, **decoding, **measures}, "evaluate")
    set_threads(threads)
    result = measure(request, Translator.load(model, device), say)
    if output is not None:
        write_json(output, result.model_dump(mode="json"))
        say(f"written: {output}")
    if as_json:
        print_json(result.model_dump(mode="json"))
    else:
        Console().print(quality_table(result))


@app.command()
def report(
    results: Annotated[Path, typer.Argument(help="A result file that `evaluate --output` wrote.")],
    page: Annotated[Path | None, typer.Option(help="Write one self-contained HTML page.")] = None,
    figure: Annotated[Path | None, typer.Option(help="Write the quality-latency picture (SVG).")] = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print the table as Markdown.")] = False,
) -> None:
    """Show a result file as a table, a picture or a page; the model is not needed.

    Example: multistride report results/multi30k-foundation.json --page multi30k.html
    """
    from multistride.report.results import read_results
    from multistride.report.show import show

    show(read_results(results), page, figure, markdown, say)


@app.command()
def inspect(
    model: Annotated[Path, typer.Argument(help="Model directory.")],
    as_json: JsonOption = False,
) -> None:
    """Say what is in a model directory: sizes, group sizes, where it came from.

    Example: multistride inspect RUN/best
    """
    from multistride.model.inspection import inspect_model

    facts = inspect_model(model)
    if as_json:
        print_json(facts)
    else:
        for key, value in facts.items():
            shown = ", ".join(map(str, value)) if isinstance(value, list) else value
            typer.echo(f"{key.replace('_', ' '):20} {shown}")


def main() -> NoReturn:
    """The entry point of the command."""
    run(app)


def _note_untrained(group_size: int, translator: Translator) -> None:
    trained = translator.config.group_sizes
    if group_size not in trained:
        say(f"note: this checkpoint was trained for K in {', '.join(map(str, trained))}, not for {group_size}")
