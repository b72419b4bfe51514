"""The verbs that run a model: `translate`, `generate`, `score`, `evaluate`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from multistride.cli.options import (
    BanOption,
    BanTokenOption,
    BatchSizeOption,
    BeamOption,
    BufferOption,
    DeviceOption,
    DraftsOption,
    EngineOption,
    GroupSizeOption,
    GroupSizesOption,
    InputOption,
    JsonOption,
    KindOption,
    LayoutOption,
    LinesOption,
    MaxLengthOption,
    MinLengthOption,
    MinPOption,
    ModelOption,
    ModeOption,
    NoRepeatOption,
    OutputOption,
    PolicyOption,
    PrefixOption,
    SeedOption,
    ShowGroupsOption,
    StopOption,
    StreamOption,
    TaskOption,
    TeacherOption,
    TemperatureOption,
    ThreadsOption,
    ThresholdOption,
    TopKOption,
    TopPOption,
    TraceOption,
    WindowOption,
    line_format,
    note_untrained,
    refuse_search,
)
from multistride.cli.tasks import evaluate_records
from multistride.console import number, numbers, print_json, reading, say, tracing, writing
from multistride.errors import DataError, UsageError


def translate(
    model: ModelOption = None,
    group_size: GroupSizeOption = "1",
    mode: ModeOption = "fast",
    threshold: ThresholdOption = None,
    policy: PolicyOption = None,
    layout: LayoutOption = None,
    drafts: DraftsOption = None,
    beam: BeamOption = 1,
    temperature: TemperatureOption = 0.0,
    top_k: TopKOption = 0,
    top_p: TopPOption = 1.0,
    min_p: MinPOption = 0.0,
    seed: SeedOption = 0,
    min_length: MinLengthOption = 0,
    max_length: MaxLengthOption = None,
    prefix: PrefixOption = "",
    ban: BanOption = None,
    ban_token: BanTokenOption = None,
    no_repeat_ngram: NoRepeatOption = 0,
    stop: StopOption = None,
    batch_size: BatchSizeOption = 32,
    window: WindowOption = None,
    buffer: BufferOption = 1024,
    source: InputOption = None,
    output: OutputOption = None,
    trace: TraceOption = None,
    engine: EngineOption = "eager",
    device: DeviceOption = "auto",
    threads: ThreadsOption = None,
    show_groups: ShowGroupsOption = False,
    stream: StreamOption = False,
    as_json: LinesOption = False,
) -> None:
    """Translate stdin to stdout: n lines in, n lines out, in order.

    A line that cannot be translated becomes an empty line; stderr names it, and the exit code is 4. With --input and
    --output the same command goes on where it stopped, after Ctrl-C or a crash.

    Example: echo "Two dogs run." | multistride translate --group-size 4
    """
    ways = _ways(locals())
    size, form = _size(group_size), line_format(show_groups, stream, as_json)
    if window and (form != "text" or trace):
        raise UsageError("--window writes plain lines: leave --show-groups, --stream, --json and --trace out")

    from multistride.device import set_threads
    from multistride.lines import write_lines
    from multistride.resumable import FileRequest, translate_file
    from multistride.shipped import DEFAULT
    from multistride.tasks.sentence_windows import WindowTranslator
    from multistride.translator import Translator

    set_threads(threads)
    loaded = Translator.load(model, device, engine, say)
    translator = WindowTranslator(loaded, window) if window else loaded
    options = translator.settled(size, say, max_length=max_length, prefix=prefix, **ways)
    translator.checked(options, streaming=stream)
    note_untrained(options.group_size, translator, options.drafts == "text")
    if source and output and not (stream or trace):
        request = FileRequest(model or DEFAULT, source, output, options, form, buffer, window)
        failed = translate_file(translator, request, say)
    else:
        with reading(source) as lines, writing(output) as text, tracing(trace) as steps:
            failed = write_lines(translator, lines, options, text, steps, form, buffer, say)
    if isinstance(translator, WindowTranslator):
        say(translator.counts.told())
    _complete(failed, "lines could not be translated")


def generate(
    model: Annotated[Path, typer.Option(help="Directory of a causal model, for example RUN/best.")],
    group_size: GroupSizeOption = "1",
    mode: ModeOption = "fast",
    threshold: ThresholdOption = None,
    policy: PolicyOption = None,
    layout: LayoutOption = None,
    drafts: DraftsOption = None,
    beam: BeamOption = 1,
    max_tokens: Annotated[int, typer.Option(help="Most tokens written after a prompt.")] = 128,
    temperature: TemperatureOption = 0.0,
    top_k: TopKOption = 0,
    top_p: TopPOption = 1.0,
    min_p: MinPOption = 0.0,
    seed: SeedOption = 0,
    min_length: MinLengthOption = 0,
    ban: BanOption = None,
    ban_token: BanTokenOption = None,
    no_repeat_ngram: NoRepeatOption = 0,
    stop: StopOption = None,
    chat: Annotated[bool, typer.Option("--chat", help="Each prompt is a user's turn in the model's chat.")] = False,
    system: Annotated[str | None, typer.Option(help="With --chat: the system's words before it.")] = None,
    batch_size: BatchSizeOption = 32,
    buffer: BufferOption = 1024,
    source: InputOption = None,
    output: OutputOption = None,
    trace: TraceOption = None,
    engine: EngineOption = "eager",
    device: DeviceOption = "auto",
    threads: ThreadsOption = None,
    show_groups: ShowGroupsOption = False,
    stream: StreamOption = False,
    as_json: LinesOption = False,
) -> None:
    """Continue prompts with a causal model: one prompt a line in, one text a line out, in order.

    Line ends that the model writes become blanks, except with --stream; --json has them. A prompt that cannot be
    continued becomes an empty line; stderr names it, and the exit code is 4.

    Example: echo "It is a truth universally" | multistride generate --model RUN/best --group-size 4 --mode exact
    """
    ways = _ways(locals())
    size, form = _size(group_size), line_format(show_groups, stream, as_json)
    if system is not None and not chat:
        raise UsageError("--system was given, which belongs to a conversation: add --chat, or leave it out")

    from multistride.device import set_threads
    from multistride.generator import Generator
    from multistride.lines import write_lines

    set_threads(threads)
    generator = Generator.load(model, device, engine, say)
    options = generator.settled(size, say, max_length=max_tokens, **ways)
    generator.checked(options, streaming=stream)
    note_untrained(options.group_size, generator, options.drafts == "text")
    writer = generator.chatting(system) if chat else generator
    with reading(source) as lines, writing(output) as text, tracing(trace) as steps:
        failed = write_lines(writer, lines, options, text, steps, form, buffer, say)
    _complete(failed, "prompts could not be continued")


def score(
    source: Annotated[Path, typer.Option(help="Source text, one a line (.gz and .xz too).")],
    target: Annotated[Path, typer.Option(help="Its translations, line by line.")],
    model: ModelOption = None,
    group_size: GroupSizeOption = "1",
    device: DeviceOption = "auto",
    threads: ThreadsOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object per line: all tokens.")] = False,
) -> None:
    """Print how probable given translations are (natural logarithm).

    With a causal model: how probable given texts are after given prompts, EOS not counted.

    One line per pair, in order: the sum over all tokens and EOS, a tab, and their number. A pair that cannot be
    scored is an empty line; stderr names it, and the exit code is 4.

    Example: multistride score --model RUN/best --source test.en --target test.de --group-size 4
    """
    size = number(group_size)

    from multistride.device import set_threads
    from multistride.generator import load
    from multistride.lines import score_stream

    set_threads(threads)
    translator = load(model, device)
    note_untrained(size, translator)
    failed = score_stream(translator, source, target, size, as_json, say)
    _complete(failed, "pairs could not be scored")


def evaluate(
    source: Annotated[Path, typer.Option(help="Source text (or prompts), one a line.")],
    reference: Annotated[
        Path | None, typer.Option(help="Reference text, line by line; generation can do without.")
    ] = None,
    model: ModelOption = None,
    group_size: GroupSizesOption = "1",
    mode: ModeOption = "fast",
    threshold: ThresholdOption = None,
    policy: PolicyOption = None,
    layout: LayoutOption = None,
    drafts: DraftsOption = None,
    beam: BeamOption = 1,
    kind: KindOption = "translation",
    max_tokens: Annotated[int | None, typer.Option(help="generation: most tokens written (64).")] = None,
    chat: Annotated[bool, typer.Option("--chat", help="generation: prompts are turns in the model's chat.")] = False,
    task: TaskOption = None,
    teacher: TeacherOption = None,
    tokenize: Annotated[str, typer.Option(help="sacreBLEU tokenizer: 13a, zh, char, none, ...")] = "13a",
    name: Annotated[str | None, typer.Option(help="Title of the result.")] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Sentences decoded together for throughput.")] = 32,
    latency_sentences: Annotated[int, typer.Option(min=1, help="Sentences timed alone.")] = 100,
    examples: Annotated[int, typer.Option(min=0, help="Worked examples kept in the result.")] = 3,
    limit: Annotated[int | None, typer.Option(min=1, help="Use only the first lines.")] = None,
    output: Annotated[Path | None, typer.Option(help="Write the result object to this file as well.")] = None,
    engine: EngineOption = "eager",
    device: DeviceOption = "auto",
    threads: ThreadsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Measure quality, steps and latency by group size.

    Causal models (--kind generation): perplexity of the references given the prompts, repetition, distinct words,
    steps and latency of what is written; --mode may name several, such as fast,exact.

    Tasks (--task): the figures of a task over records; one that has no answer is reported, and the exit code is 4.

    Example: multistride evaluate --model RUN/best --source test.en --reference test.de --group-size 1,2,4 --json
    """
    if task is not None:
        evaluate_records(locals())
        return
    if teacher is not None:
        raise UsageError("--teacher was given, which is for --task generation: leave it out, or name the task")
    amounts = {"batch_size": batch_size, "limit": limit, "examples": examples}
    shared = {"model": model, "source": source, "reference": reference, "name": name, "threshold": threshold}
    tree = {**shared, **amounts, "group_sizes": numbers(group_size)}
    shown = (output, as_json)
    if kind == "generation":
        refuse_search(beam, tokenize, policy, layout)
        own = {"modes": tuple(mode.split(",")), "drafts": drafts, "max_tokens": max_tokens or 64, "chat": chat}
        _evaluate_generation({**tree, **own, "latency_texts": latency_sentences}, engine, device, threads, shown)
        return
    if reference is None:
        raise UsageError("--reference is missing: give the reference translations, line by line")
    if chat or drafts or max_tokens is not None:
        raise UsageError("--chat, --drafts and --max-tokens are for --kind generation: leave them out")
    ways = {"mode": mode, "policy": policy, "layout": layout, "beam": beam, "kind": kind, "tokenize": tokenize}
    _evaluate_pairs({**tree, **ways, "latency_sentences": latency_sentences}, engine, device, threads, shown)


def _evaluate_pairs(
    tree: dict[str, Any], engine: str, device: str, threads: int | None, shown: tuple[Path | None, bool]
) -> None:
    """`evaluate` for a translation model."""
    from multistride.config import validate
    from multistride.device import set_threads
    from multistride.evaluate.run import EvaluationRequest, evaluate
    from multistride.report.tables import quality_table
    from multistride.shipped import DEFAULT
    from multistride.translator import Translator

    model = tree["model"]
    named = {"model": model or DEFAULT, "name": tree["name"] or (model.parent.name if model else DEFAULT.name)}
    request = validate(EvaluationRequest, {**tree, **named}, "evaluate")
    set_threads(threads)
    _show(evaluate(request, Translator.load(model, device, engine, say), say), quality_table, *shown)


def _evaluate_generation(
    tree: dict[str, Any], engine: str, device: str, threads: int | None, shown: tuple[Path | None, bool]
) -> None:
    """`evaluate` for a causal model."""
    from multistride.config import validate
    from multistride.device import set_threads
    from multistride.evaluate.generation import GenerationRequest, evaluate_generation
    from multistride.generator import Generator
    from multistride.report.generation import generation_table

    generator = Generator.load(tree["model"], device, engine, say)
    named = {**tree, "name": tree["name"] or tree["model"].parent.name}
    set_threads(threads)
    result = evaluate_generation(validate(GenerationRequest, named, "evaluate"), generator, say)
    _show(result, generation_table, *shown)


def _show(result: Any, table: Callable[[Any], Any], output: Path | None, as_json: bool) -> None:
    """Write a result to a file if one was named, and print it as an object or as its table."""
    from rich.console import Console

    from multistride.files import write_json

    found = result.model_dump(mode="json")
    if output is not None:
        write_json(output, found)
        say(f"written: {output}")
    if as_json:
        print_json(found)
    else:
        Console().print(table(result))


def _ways(given: dict[str, Any]) -> dict[str, Any]:
    """What `translate` and `generate` were told about decoding, by the names of `DecodeOptions`."""
    search = ("mode", "threshold", "policy", "layout", "drafts", "beam")
    drawn = ("temperature", "top_k", "top_p", "min_p", "seed")
    ways = {name: given[name] for name in (*search, *drawn, "min_length", "no_repeat_ngram")}
    texts = {"banned": given["ban"] or (), "banned_tokens": given["ban_token"] or (), "stop": given["stop"] or ()}
    return {**ways, **texts, "batch_size": 1 if given["stream"] else given["batch_size"]}


def _size(text: str) -> int | str:
    return text if text == "auto" else number(text)


def _complete(failed: int, what: str) -> None:
    """Raise `DataError` if some lines have no result."""
    if failed:
        raise DataError(f"{failed} of the {what} (named above); their lines are empty")
