"""The verbs that run a model: `translate`, `generate`, `score`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from multistride.cli.console import number, reading, say, tracing, writing
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
    InputOption,
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
    WindowOption,
    line_format,
    note_untrained,
)
from multistride.errors import DataError, UsageError

if TYPE_CHECKING:
    from multistride.translator import Translator


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

    A line without a translation is empty (exit code 4). --input with --output goes on where it was
    stopped.

    Example: echo "Two dogs run." | multistride translate --group-size 4
    """
    ways = _ways(locals())
    size, form = _size(group_size), line_format(show_groups, stream, as_json)
    _check_plain(window, plain=form == "text" and trace is None)

    from multistride.cli.lines import write_lines
    from multistride.cli.resumable import FileRequest, translate_file
    from multistride.shipped import DEFAULT

    translator = _translator(model, device, engine, threads, window)
    options = translator.settled(size, say, max_length=max_length, prefix=prefix, **ways)
    translator.checked(options, streaming=stream)
    note_untrained(options.group_size, translator, options.drafts == "text")
    if source and output and not (stream or trace):
        request = FileRequest(model or DEFAULT, source, output, options, form, buffer, window)
        failed = translate_file(translator, request, say)
    else:
        with reading(source) as lines, writing(output) as text, tracing(trace) as steps:
            failed = write_lines(translator, lines, options, text, steps, form, buffer, say)
    _tell_windows(translator)
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
    chat: Annotated[
        bool, typer.Option("--chat", help="Each prompt is a user's turn in the model's chat.")
    ] = False,
    system: Annotated[
        str | None, typer.Option(help="With --chat: the system's words before it.")
    ] = None,
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

    Line ends that the model writes become blanks, except with --stream; --json has them. A prompt
    that cannot be continued becomes an empty line; stderr names it, and the exit code is 4.

    Example: echo "It is a truth universally" | multistride generate --model RUN/best --group-size 4
    --mode exact
    """
    ways = _ways(locals())
    size, form = _size(group_size), line_format(show_groups, stream, as_json)
    if system is not None and not chat:
        raise UsageError(
            "--system was given, which belongs to a conversation: add --chat, or leave it out"
        )

    from multistride.cli.lines import write_lines
    from multistride.device import set_threads
    from multistride.generator import Generator

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
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON object per line: all tokens.")
    ] = False,
) -> None:
    """Print how probable given translations are (natural logarithm).

    With a causal model: how probable given texts are after given prompts, EOS not counted.

    One line per pair, in order: the sum over all tokens and EOS, a tab, and their number. A pair
    that cannot be scored is an empty line; stderr names it, and the exit code is 4.

    Example: multistride score --model RUN/best --source test.en --target test.de --group-size 4
    """
    size = number(group_size)

    from multistride.cli.lines import score_stream
    from multistride.device import set_threads
    from multistride.generator import load

    set_threads(threads)
    translator = load(model, device)
    note_untrained(size, translator)
    failed = score_stream(translator, source, target, size, as_json, say)
    _complete(failed, "pairs could not be scored")


def _check_plain(window: int | None, plain: bool) -> None:
    if window is not None and not plain:
        raise UsageError(
            "--window writes plain lines: leave --show-groups, --stream, --json and --trace out"
        )


def _translator(
    model: Path | None, device: str, engine: str, threads: int | None, window: int | None
) -> Translator:
    """What translates lines, in windows if they were asked for."""
    from multistride.device import set_threads
    from multistride.tasks.sentence_windows import WindowTranslator
    from multistride.translator import Translator

    set_threads(threads)
    loaded = Translator.load(model, device, engine, say)
    return loaded if window is None else WindowTranslator(loaded, window)


def _tell_windows(translator: Translator) -> None:
    from multistride.tasks.sentence_windows import WindowTranslator

    if isinstance(translator, WindowTranslator):
        say(translator.counts.told())


def _ways(given: dict[str, Any]) -> dict[str, Any]:
    """What `translate` and `generate` were told about decoding, by the names of `DecodeOptions`."""
    search = ("mode", "threshold", "policy", "layout", "drafts", "beam")
    drawn = ("temperature", "top_k", "top_p", "min_p", "seed")
    ways = {name: given[name] for name in (*search, *drawn, "min_length", "no_repeat_ngram")}
    texts = {
        "banned": given["ban"] or (),
        "banned_tokens": given["ban_token"] or (),
        "stop": given["stop"] or (),
    }
    return {**ways, **texts, "batch_size": 1 if given["stream"] else given["batch_size"]}


def _size(text: str) -> int | str:
    return text if text == "auto" else number(text)


def _complete(failed: int, what: str) -> None:
    """Raise `DataError` if some lines have no result."""
    if failed:
        raise DataError(f"{failed} of the {what} (named above); their lines are empty")
