"""The verbs that write text, line by line: `translate`, `generate`, `score`."""

from __future__ import annotations

import logging
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from multistride.cli.console import (
    reading,
    refuse_file_of_stdout,
    refuse_shared_files,
    tracing,
    writing,
)
from multistride.cli.fields import Fields
from multistride.cli.light import buffered, translated_light
from multistride.cli.opening import open_model
from multistride.cli.options import (
    ChatOption,
    Cluster,
    GroupSizeOption,
    Lines,
    LinesOption,
    Machine,
    ModelOption,
    NeededModelOption,
    SourceOption,
    Units,
    group_size_or_auto,
    note_untrained,
)
from multistride.cli.quiet import uncollected
from multistride.decode.options import DecodeOptions
from multistride.errors import DataError, UsageError

if TYPE_CHECKING:
    from multistride.cli.chunks import Decode
    from multistride.decode.plan import Plan
    from multistride.text_model import TextModel
    from multistride.translator import Translator

logger = logging.getLogger(__name__)

_NOT_OFFERED = ("group_size", "limit_ratio", "limit_extra")


def translate(
    *,
    model: ModelOption = None,
    lines: Annotated[Lines, Fields()],
    group_size: GroupSizeOption = "1",
    decoding: Annotated[DecodeOptions, Fields(without=_NOT_OFFERED)],
    machine: Annotated[Machine, Fields()],
    cluster: Annotated[Cluster, Fields()],
    units: Annotated[Units, Fields()],
) -> None:
    """Translate stdin to stdout: n lines in, n lines out, in order.

    A line that cannot be translated becomes an empty line; stderr names it, and the exit code is 4.
    With --input and --output an interrupted translation resumes when you run it again.

    Example: echo "Two dogs run." | multistride translate --group-size 4

    Example: multistride translate --input book.en --output book.de --group-size auto
    """
    failed = None
    if units.checked(lines, cluster):
        failed = translated_light(model, lines, group_size, decoding, machine, cluster)
    if failed is None:
        failed = _translated(model, lines, group_size, decoding, machine, cluster, units)
    _complete(failed, "lines could not be translated")


def _translated(
    model: Path | None,
    lines: Lines,
    group_size: str,
    decoding: DecodeOptions,
    machine: Machine,
    cluster: Cluster,
    units: Units,
) -> int:
    """Translate lines in any way there is; return how many failed."""
    with uncollected():
        from multistride.cli.sharing import lines_shared
        from multistride.tasks.sentence_windows import WindowTranslator
        from multistride.tasks.sentences import SentenceTranslator
        from multistride.translator import Translator

        translator: Translator = _opened(Translator, model, machine, lines, cluster)
    if units.sentences:
        translator = SentenceTranslator(translator)
    elif units.window is not None:
        translator = WindowTranslator(translator, units.window)
    plan = _settled(translator, group_size, decoding, lines)
    shared = lines_shared(cluster, machine, model, plan.options)
    failed = _written(translator, model, plan, lines, shared)
    if isinstance(translator, WindowTranslator):
        logger.info(translator.counts)
    return failed


def generate(
    *,
    model: NeededModelOption,
    lines: Annotated[Lines, Fields()],
    group_size: GroupSizeOption = "1",
    decoding: Annotated[
        DecodeOptions,
        Fields(without=(*_NOT_OFFERED, "prefix"), defaults={"max_tokens": 128}),
    ],
    machine: Annotated[Machine, Fields()],
    cluster: Annotated[Cluster, Fields()],
    chat: ChatOption = False,
    system: Annotated[
        str | None,
        typer.Option(help="With --chat: the system message before it.", rich_help_panel="Input"),
    ] = None,
) -> None:
    """Continue prompts with a causal model: one prompt a line in, one text a line out, in order.

    Line ends in a text become blanks, except with --stream; --json keeps them. A prompt that cannot
    be continued becomes an empty line; stderr names it, and the exit code is 4.

    Example: echo "The sea is" | multistride generate --model RUN/best --group-size 4 --mode exact
    """
    if system is not None and not chat:
        raise UsageError(
            "--system was given, which belongs to a conversation: add --chat, or leave it out"
        )

    with uncollected():
        from multistride.cli.sharing import lines_shared
        from multistride.generator import Generator

        generator = _opened(Generator, model, machine, lines, cluster)
    plan = _settled(generator, group_size, decoding, lines)
    writer = generator.chatting(system) if chat else generator
    shared = lines_shared(cluster, machine, model, plan.options, (chat, system))
    failed = _write(writer, plan, lines, shared)
    _complete(failed, "prompts could not be continued")


def score(
    *,
    model: ModelOption = None,
    source: SourceOption,
    target: Annotated[
        Path, typer.Option(help="Its translations, line by line.", rich_help_panel="Input")
    ],
    group_size: Annotated[
        int,
        typer.Option(
            min=1,
            help="Score as written with this many tokens per step (K).",
            rich_help_panel="Decoding",
        ),
    ] = 1,
    tokens: Annotated[
        bool,
        typer.Option(
            "--tokens",
            help="Targets are lines of `translate --json`: score the tokens that were written.",
            rich_help_panel="Input",
        ),
    ] = False,
    machine: Annotated[Machine, Fields(without=("engine",))],
    as_json: LinesOption = False,
) -> None:
    """Print how probable given translations are (natural logarithm).

    With a causal model: how probable texts are after given prompts, EOS not counted.

    One line per pair, in order: the sum over all tokens and EOS, a tab, and their number. A pair
    that cannot be scored becomes an empty line; stderr names it, and the exit code is 4.

    A text may be cut into other tokens than a model wrote it in; then its score differs from the
    one that decoding reported. --tokens scores what was written. Scores are always those of the
    weights in float32; int8 decoding reports slightly other ones.

    Example: multistride score --model RUN/best --source test.en --target test.de --group-size 4
    """
    from multistride.cli.lines import score_stream

    # Probabilities are those of the weights in float32.
    translator = open_model(machine.model_copy(update={"engine": "eager"}), model)
    note_untrained(group_size, translator.config.group_sizes)
    form: Literal["json", "text"] = "json" if as_json else "text"
    failed = score_stream(translator, source, target, group_size, form, tokens)
    _complete(failed, "pairs could not be scored")


def _opened(kind: Any, model: Path | None, machine: Machine, lines: Lines, cluster: Cluster) -> Any:
    """Return the model, loaded as `kind`, once it is clear that its lines have places to go."""
    refuse_shared_files([lines.source], [lines.output, lines.trace])
    if lines.output is None and lines.trace is not None:
        refuse_file_of_stdout(lines.trace)
    if lines.stream:
        cluster.refuse("--stream")

    from multistride.device import set_threads

    set_threads(machine.threads)
    return kind.load(model, machine.device, machine.engine)


def _settled(translator: TextModel, group_size: str, decoding: DecodeOptions, lines: Lines) -> Plan:
    """Return how to decode, checked against the model before anything is read."""
    choices = {name: getattr(decoding, name) for name in decoding.model_fields_set}
    if lines.stream:
        choices["batch_size"] = 1
    size = group_size_or_auto(group_size)
    plan = translator.plan(size, streaming=lines.stream, **choices)
    trained = translator.config.group_sizes
    note_untrained(plan.group_size, trained, plan.options.drafts == "text")
    return plan


def _written(
    translator: Translator,
    model: Path | None,
    plan: Plan,
    lines: Lines,
    shared: AbstractContextManager[Decode | None],
) -> int:
    """Translate lines, resumably if they go from a file to a file; return how many failed."""
    from multistride.cli.resumable import FileRequest, is_resumable, translate_file
    from multistride.shipped import DEFAULT

    if not is_resumable(lines):
        return _write(translator, plan, lines, shared)
    request = FileRequest.of(lines, model or DEFAULT, plan.options)
    with shared as decode:
        return translate_file(translator, request, decode)


def _write(
    translator: TextModel,
    plan: Plan,
    lines: Lines,
    shared: AbstractContextManager[Decode | None],
) -> int:
    """Decode lines from where they are to where they go; return how many failed."""
    from multistride.cli.lines import Sink, write_lines

    with (
        reading(lines.source) as texts,
        writing(lines.output) as output,
        tracing(lines.trace) as trace,
        shared as decode,
    ):
        sink = Sink(output, lines.form, trace, buffered(lines))
        return write_lines(translator, texts, plan, sink, decode)


def _complete(failed: int, what: str) -> None:
    """Raise `DataError` if some lines have no result."""
    if failed:
        raise DataError(f"{failed} of the {what} (named above); their lines are empty")
