"""The command `multistride`. Data on stdout, everything else on stderr; heavy imports only inside
the verbs.
"""

from __future__ import annotations

from typing import Annotated, NoReturn

import typer

from multistride.cli.answering import answer
from multistride.cli.console import leave, run
from multistride.cli.converting import convert
from multistride.cli.corpora import distill, phrases, prepare
from multistride.cli.decoding import generate, score, translate
from multistride.cli.exporting import export
from multistride.cli.measuring import bench, calibrate, evaluate
from multistride.cli.showing import inspect, report
from multistride.cli.tasks import classify
from multistride.cli.training import average, train
from multistride.version import __version__

app = typer.Typer(
    name="multistride",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Take your translation or text model, make it write K tokens per step, prove what that costs.",
    epilog="Exit codes: 0 ok, 1 run-time failure, 2 usage or configuration, 3 missing optional extra, "
    "4 bad data or checkpoint, 5 a gate failed, 130 interrupted (resumable).",
)


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


for _verb in (
    prepare,
    convert,
    distill,
    phrases,
    train,
    average,
    translate,
    generate,
    classify,
    answer,
    score,
    evaluate,
    bench,
    calibrate,
    report,
    inspect,
    export,
):
    app.command()(_verb)


def main() -> NoReturn:
    """The entry point of the command."""
    try:
        run(app)
    except SystemExit as ended:
        leave(int(ended.code or 0))
