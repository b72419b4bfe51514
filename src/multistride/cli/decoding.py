"""The verbs that run a model: `translate`, `evaluate`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from multistride.cli.options import (
    BanOption,
    BanTokenOption,
    BeamOption,
    DeviceOption,
    EngineOption,
    GroupSizesOption,
    JsonOption,
    LayoutOption,
    MaxLengthOption,
    MinLengthOption,
    ModelOption,
    ModeOption,
    NoRepeatOption,
    PolicyOption,
    PrefixOption,
    StopOption,
    ThreadsOption,
    ThresholdOption,
)
from multistride.console import number, numbers, print_json, reading, say, tracing, writing
from multistride.errors import DataError, UsageError

if TYPE_CHECKING:
    from multistride.translator import Translator


def translate(
    model: ModelOption = None,
    group_size: Annotated[
        str, typer.Option(help="Tokens per step (K); 1 is autoregressive, auto the fastest.")
    ] = "1",
    mode: ModeOption = "fast",
    threshold: ThresholdOption = None,
    policy: PolicyOption = None,
    layout: LayoutOption = None,
    beam: BeamOption = 1,
    temperature: Annotated[float, typer.Option(help="Above 0: draw tokens by chance.")] = 0.0,
    top_k: Annotated[int, typer.Option(help="Draw only from so many tokens; 0: all.")] = 0,
    top_p: Annotated[float, typer.Option(help="Draw only from the likely tokens with this mass.")] = 1.0,
    min_p: Annotated[float, typer.Option(help="Draw only tokens this likely beside the best.")] = 0.0,
    seed: Annotated[int, typer.Option(help="The same source and seed give the same text.")] = 0,
    min_length: MinLengthOption = 0,
    max_length: MaxLengthOption = None,
    prefix: PrefixOption = "",
    ban: BanOption = None,
    ban_token: BanTokenOption = None,
    no_repeat_ngram: NoRepeatOption = 0,
    stop: StopOption = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Sentences decoded together.")] = 32,
    buffer: Annotated[int, typer.Option(min=1, help="Lines read before the first is written.")] = 1024,
    source: Annotated[Path | None, typer.Option("--input", help="Read this file instead of stdin.")] = None,
    output: Annotated[
        Path | None, typer.Option(help="Write this file (whole or not at all) instead of stdout.")
    ] = None,
    trace: Annotated[Path | None, typer.Option(help="Write one JSON line per step to this file.")] = None,
    engine: EngineOption = "eager",
    device: DeviceOption = "auto",
    threads: ThreadsOption = None,
    show_groups: Annotated[
        bool, typer.Option("--show-groups", help="Text with a bar between the steps that wrote it.")
    ] = False,
    stream: Annotated[
        bool, typer.Option("--stream", help="Write each group at once, one sentence after the other.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object per line instead of text.")] = False,
) -> None:
    """Translate stdin to stdout: n lines in, n lines out, in order.

    A line that cannot be translated becomes an empty line; stderr names it, and the exit code is 4. With --input and
    --output the same command goes on where it stopped, after Ctrl-C or a crash.

    Example: echo "Two dogs run." | multistride translate --group-size 4
    """
    size = group_size if group_size == "auto" else number(group_size)
    formats = {"--show-groups": show_groups, "--stream": stream, "--json": as_json}
    if sum(formats.values()) > 1:
        given = " and ".join(name for name, chosen in formats.items() if chosen)
        raise UsageError(f"{given} were given, which are different formats: give one (--json has the groups)")

    from multistride.device import set_threads
    from multistride.lines import LineFormat, stream_lines, translate_stream
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
    _note_untrained(options.group_size, translator)
    form: LineFormat = "json" if as_json else "groups" if show_groups else "text"
    if source and output and not (stream or trace):
        failed = translate_file(translator, FileRequest(model or DEFAULT, source, output, options, form, buffer), say)
    else:
        with reading(source) as lines, writing(output) as text, tracing(trace) as steps:
            if stream:
                failed = stream_lines(translator, lines, options, text, steps, say)
            else:
                results = translator.translate_lines(lines, options, buffer)
                failed = translate_stream(results, translator.vocabulary, options, text, steps, form, say)
    if failed:
        raise DataError(f"{failed} of the lines could not be translated (named above); their lines are empty")


def score(
    source: Annotated[Path, typer.Option(help="Source text, one a line (.gz and .xz too).")],
    target: Annotated[Path, typer.Option(help="Its translations, line by line.")],
    model: ModelOption = None,
    group_size: Annotated[str, typer.Option(help="Tokens per step (K); 1 is autoregressive.")] = "1",
    device: DeviceOption = "auto",
    threads: ThreadsOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object per line: all tokens.")] = False,
) -> None:
    """Print how probable given translations are (natural logarithm).

    One line per pair, in order: the sum over all tokens and EOS, a tab, and their number. A pair that cannot be
    scored is an empty line; stderr names it, and the exit code is 4.

    Example: multistride score --model RUN/best --source test.en --target test.de --group-size 4
    """
    size = number(group_size)

    from multistride.device import set_threads
    from multistride.lines import score_stream
    from multistride.translator import Translator

    set_threads(threads)
    translator = Translator.load(model, device)
    _note_untrained(size, translator)
    failed = score_stream(translator, source, target, size, as_json, say)
    if failed:
        raise DataError(f"{failed} of the pairs could not be scored (named above); their lines are empty")


def evaluate(
    source: Annotated[Path, typer.Option(help="Source text, one a line.")],
    reference: Annotated[Path, typer.Option(help="Reference text, line by line.")],
    model: ModelOption = None,
    group_size: GroupSizesOption = "1",
    mode: ModeOption = "fast",
    threshold: ThresholdOption = None,
    policy: PolicyOption = None,
    layout: LayoutOption = None,
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
    engine: EngineOption = "eager",
    device: DeviceOption = "auto",
    threads: ThreadsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Measure quality, steps and latency by group size.

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


def _note_untrained(group_size: int, translator: Translator) -> None:
    trained = translator.config.group_sizes
    if group_size not in trained:
        say(f"note: this checkpoint was trained for K in {', '.join(map(str, trained))}, not for {group_size}")
