"""The command `multistride`: data on stdout, everything else on stderr.

A verb is a short function in one of these files. It only parses its options, opens streams and
calls the room that does the work, which is imported inside the verb, so that `--help` is quick.

    translating.py   translate, generate, score (and lines.py, resumable.py, which do the writing)
    tasks.py         classify, answer
    measuring.py     evaluate, bench, calibrate
    showing.py       report, inspect
    data.py          prepare, distill, phrases
    training.py      train, average
    serving.py       serve
    course.py        course build, course check, course run
    models.py        models, doctor (and installation.py), convert, export

Beside them: `options.py` (options that verbs share), `fields.py` (options made from models),
`console.py` (streams, signals, exit codes), `help.py` (how help looks).
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Annotated, NoReturn

import typer

from multistride.cli.console import hear_signals, leave, log_to_stderr, open_streams, run
from multistride.cli.course import course
from multistride.cli.data import distill, phrases, prepare
from multistride.cli.fields import with_fields
from multistride.cli.help import Verb, Verbs
from multistride.cli.measuring import bench, calibrate, evaluate
from multistride.cli.models import convert, doctor, export, models
from multistride.cli.serving import serve
from multistride.cli.showing import inspect, report
from multistride.cli.tasks import answer, classify
from multistride.cli.training import average, train
from multistride.cli.translating import generate, score, translate
from multistride.version import __version__

app = typer.Typer(
    name="multistride",
    cls=Verbs,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Make a translation or text model write K tokens per step, and measure what that costs.",
    epilog="Exit codes: 0 success, 1 run-time failure, 2 usage or configuration, 3 missing extra, "
    "4 bad data or checkpoint, 5 a required quality or speed was missed, 130 interrupted (Ctrl-C, "
    "SIGTERM, SIGHUP; the same command resumes where it can).",
)

VERBS: dict[str, tuple[Callable[..., None], ...]] = {
    "Run a model": (translate, generate, serve, classify, answer, score),
    "Measure": (evaluate, bench, calibrate, report, inspect),
    "Train": (prepare, train, distill, phrases, average),
    "Models and machine": (models, doctor, convert, export),
}


def _version(wanted: bool) -> None:
    if wanted:
        print(f"multistride {__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def _options(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", help="Print warnings and errors only on stderr.")
    ] = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", help="Print more on stderr, for debugging.")
    ] = False,
) -> None:
    log_to_stderr(logging.WARNING if quiet else logging.DEBUG if verbose else logging.INFO)
    if context.invoked_subcommand is None:
        print(context.get_help())


for _panel, _verbs in VERBS.items():
    for _verb in _verbs:
        app.command(cls=Verb, rich_help_panel=_panel)(with_fields(_verb))
app.add_typer(course, rich_help_panel="Learn")


def main() -> NoReturn:
    """Run the command line; the entry point of the command."""
    open_streams()
    hear_signals()
    try:
        run(app)
    except SystemExit as ended:
        leave(int(ended.code or 0))
