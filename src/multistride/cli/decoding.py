"""The verbs that run a model: `translate`, `generate`, `score`, `evaluate`."""

from __future__ import annotations

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
    EngineOption,
    GroupSizeOption,
    GroupSizesOption,
    InputOption,
    JsonOption,
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
    TemperatureOption,
    ThreadsOption,
    ThresholdOption,
    TopKOption,
    TopPOption,
    TraceOption,
    line_format,
    note_untrained,
)
from multistride.console import number, numbers, print_json, reading, say, tracing, writing
from multistride.errors import DataError, UsageError


def translate(
    model: ModelOption = None,
    group_size: GroupSizeOption = "1",
    mode: ModeOption = "fast",
    threshold: ThresholdOption = None,
    policy: PolicyOption = None,
    layout: LayoutOption = None,
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
    size = group_size if group_size == "auto" else number(group_size)
    form = line_format(show_groups, stream, as_json)

    from multistride.device import set_threads
    from multistride.lines import write_lines
    from multistride.resumable import FileRequest, translate_file
    from multistride.shipped import DEFAULT
    from multistride.translator import Translator

    set_threads(threads)
    translator = Translator.load(model, device, engine, say)
    sampling = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "min_p": min_p, "seed": seed}
    search = {"mode": mode, "threshold": threshold, "policy": policy, "layout": layout, "beam": beam}
    lengths = {"min_length": min_length, "max_length": max_length, "no_repeat_ngram": no_repeat_ngram}
    texts = {"prefix": prefix, "banned": ban or (), "banned_tokens": ban_token or (), "stop": stop or ()}
    together = 1 if stream else batch_size
    options = translator.settled(size, say, batch_size=together, **search, **sampling, **lengths, **texts)
    translator.checked(options, streaming=stream)
    note_untrained(options.group_size, translator)
    if source and output and not (stream or trace):
        failed = translate_file(translator, FileRequest(model or DEFAULT, source, output, options, form, buffer), say)
    else:
        with reading(source) as lines, writing(output) as text, tracing(trace) as steps:
            failed = write_lines(translator, lines, options, text, steps, form, buffer, say)
    if failed:
        raise DataError(f"{failed} of the lines could not be translated (named above); their lines are empty")


def generate(
    model: Annotated[Path, typer.Option(help="Directory of a causal model, for example RUN/best.")],
    group_size: GroupSizeOption = "1",
    mode: ModeOption = "fast",
    threshold: ThresholdOption = None,
    policy: PolicyOption = None,
    layout: LayoutOption = None,
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
    size = group_size if group_size == "auto" else number(group_size)
    form = line_format(show_groups, stream, as_json)
    if system is not None and not chat:
        raise UsageError("--system was given, which belongs to a conversation: add --chat, or leave it out")

    from multistride.device import set_threads
    from multistride.generator import Generator
    from multistride.lines import write_lines

    set_threads(threads)
    generator = Generator.load(model, device, engine, say)
    sampling = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "min_p": min_p, "seed": seed}
    search = {"mode": mode, "threshold": threshold, "policy": policy, "layout": layout, "beam": beam}
    lengths = {"min_length": min_length, "max_length": max_tokens, "no_repeat_ngram": no_repeat_ngram}
    texts = {"banned": ban or (), "banned_tokens": ban_token or (), "stop": stop or ()}
    together = 1 if stream else batch_size
    options = generator.settled(size, say, batch_size=together, **search, **sampling, **lengths, **texts)
    generator.checked(options, streaming=stream)
    note_untrained(options.group_size, generator)
    writer = generator.chatting(system) if chat else generator
    with reading(source) as lines, writing(output) as text, tracing(trace) as steps:
        failed = write_lines(writer, lines, options, text, steps, form, buffer, say)
    if failed:
        raise DataError(f"{failed} of the prompts could not be continued (named above); their lines are empty")


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
    if failed:
        raise DataError(f"{failed} of the pairs could not be scored (named above); their lines are empty")


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
    beam: BeamOption = 1,
    kind: Annotated[
        str, typer.Option(help="translation or phonemes: which measures the table shows; generation: causal models.")
    ] = "translation",
    max_tokens: Annotated[int | None, typer.Option(help="generation: most tokens written (64).")] = None,
    chat: Annotated[bool, typer.Option("--chat", help="generation: prompts are turns in the model's chat.")] = False,
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

    Example: multistride evaluate --model RUN/best --source test.en --reference test.de --group-size 1,2,4 --json
    """
    sizes = numbers(group_size)
    if kind == "generation":
        if beam > 1 or tokenize != "13a":
            raise UsageError("--beam and --tokenize are not for --kind generation: leave them out")
        own = {"model": model, "source": source, "reference": reference, "chat": chat, "threshold": threshold}
        amounts = {"batch_size": batch_size, "limit": limit, "latency_texts": latency_sentences, "examples": examples}
        ways = {"group_sizes": sizes, "modes": tuple(mode.split(",")), "max_tokens": max_tokens or 64}
        _evaluate_generation({**own, **amounts, **ways, "name": name}, output, device, threads, as_json)
        return
    if reference is None:
        raise UsageError("--reference is missing: give the reference translations, line by line")
    if chat or max_tokens is not None:
        raise UsageError("--chat and --max-tokens are for --kind generation: leave them out")

    from rich.console import Console

    from multistride.config import validate
    from multistride.device import set_threads
    from multistride.evaluate.run import EvaluationRequest
    from multistride.evaluate.run import evaluate as measure
    from multistride.files import write_json
    from multistride.report.tables import quality_table
    from multistride.shipped import DEFAULT
    from multistride.translator import Translator

    name = name or (model.parent.name if model else DEFAULT.name)
    files = {"model": model or DEFAULT, "source": source, "reference": reference, "name": name}
    decoding = {"group_sizes": sizes, "mode": mode, "threshold": threshold, "beam": beam}
    decoding |= {"policy": policy, "layout": layout}
    amounts = {"batch_size": batch_size, "limit": limit}
    measures = {"kind": kind, "tokenize": tokenize, "latency_sentences": latency_sentences, "examples": examples}
    request = validate(EvaluationRequest, {**files, **decoding, **amounts, **measures}, "evaluate")
    set_threads(threads)
    result = measure(request, Translator.load(model, device, engine, say), say)
    if output is not None:
        write_json(output, result.model_dump(mode="json"))
        say(f"written: {output}")
    if as_json:
        print_json(result.model_dump(mode="json"))
    else:
        Console().print(quality_table(result))


def _evaluate_generation(
    tree: dict[str, Any], output: Path | None, device: str, threads: int | None, as_json: bool
) -> None:
    """`evaluate` for a causal model."""
    from rich.console import Console

    from multistride.config import validate
    from multistride.device import set_threads
    from multistride.evaluate.generation import GenerationRequest, evaluate_generation
    from multistride.files import write_json
    from multistride.generator import Generator
    from multistride.report.generation import generation_table

    generator = Generator.load(tree["model"], device)
    tree["name"] = tree["name"] or tree["model"].parent.name
    set_threads(threads)
    result = evaluate_generation(validate(GenerationRequest, tree, "evaluate"), generator, say)
    if output is not None:
        write_json(output, result.model_dump(mode="json"))
        say(f"written: {output}")
    if as_json:
        print_json(result.model_dump(mode="json"))
    else:
        Console().print(generation_table(result))
