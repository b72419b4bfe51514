"""The verbs of the course: `course build`, `course check`, `course run`."""

from __future__ import annotations

import logging
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from multistride.cli.help import DIRECTORY, Verb, Verbs
from multistride.cli.options import ThreadsOption
from multistride.errors import DataError

logger = logging.getLogger(__name__)

course = typer.Typer(
    name="course",
    cls=Verbs,
    help="Build the course on semi-autoregressive models, whose numbers all come from runs.",
)


class Profile(StrEnum):
    """Sizes of experiments: `tiny` shows only that everything runs."""

    tiny = "tiny"
    quick = "quick"
    full = "full"

    def directory(self) -> Path:
        """Return the directory of its course: one course holds results of one profile."""
        return Path("course" if self is Profile.full else f"course-{self.value}")


class Language(StrEnum):
    """Languages of the course."""

    zh = "zh"
    en = "en"


ResultsOption = Annotated[
    Path, typer.Option(help="Directory of recorded results.", rich_help_panel="Input")
]
OutputOption = Annotated[
    Path,
    typer.Option(metavar=DIRECTORY, help="Directory of the course.", rich_help_panel="Output"),
]


@course.command(cls=Verb)
def build(
    output: Annotated[
        Path | None,
        typer.Option(
            metavar=DIRECTORY,
            help="Directory of the course (default: course; for a smaller profile course-PROFILE).",
            rich_help_panel="Output",
        ),
    ] = None,
    language: Annotated[
        Language | None, typer.Option(help="Language (default: both).", rich_help_panel="Output")
    ] = None,
    profile: Annotated[
        Profile,
        typer.Option(
            help="full reads recorded experiments; quick runs small ones now.",
            rich_help_panel="Input",
        ),
    ] = Profile.full,
    results: ResultsOption = Path("results"),
    chapter: Annotated[
        list[str] | None,
        typer.Option(
            help="Build this chapter only; others there stay. Repeatable.", rich_help_panel="Input"
        ),
    ] = None,
    threads: ThreadsOption = None,
) -> None:
    """Build the course: HTML pages that need no network, and the same as Markdown.

    A missing result is an error, or with a smaller profile leaves its chapter out.

    Example: multistride course build --output course

    Example: multistride course build --profile quick --chapter 1
    """
    from multistride.course.numbers import Results
    from multistride.course.site import (
        OTHER,
        chapters_that_stay,
        check_ready,
        chosen_chapters,
        pages_of,
    )
    from multistride.course.site import build as build_site
    from multistride.device import set_threads

    languages, only = [language] if language else list(Language), tuple(chapter or ())
    output, chosen = output or profile.directory(), chosen_chapters(only)
    for each in languages:  # before minutes are spent on experiments
        check_ready(each.value)
        chapters_that_stay(output, each.value, chosen, profile != Profile.full)
    experiments = results / "course"
    if profile != Profile.full:
        from multistride.course.experiments import EXPERIMENTS, experiment

        set_threads(threads)
        experiments = output / "results"
        for name in EXPERIMENTS:
            if any(one.reads(name) for one in chosen):
                logger.info(f"experiment {name}")
                experiment(name, profile.value, experiments)
    if profile == Profile.full:
        only = tuple(one.name for one in chosen)
    for each in languages:
        other = OTHER[each.value] if len(languages) > 1 else None
        place = build_site(output, Results(results, experiments), each.value, only, other)
        only = pages_of(place)  # what the first language left out is not said twice
        logger.info(f"written: {place / 'index.html'}")


@course.command(cls=Verb)
def check(output: OutputOption = Path("course"), results: ResultsOption = Path("results")) -> None:
    """Compare every number of a built course with its result file; exit code 4 if one differs.

    Example: multistride course check --output course
    """
    from multistride.course.numbers import Results
    from multistride.course.site import check as check_site
    from multistride.course.site import has_own_results

    experiments = output / "results" if has_own_results(output) else results / "course"
    differences = check_site(output, Results(results, experiments))
    for line in differences:
        print(line)
    if differences:
        raise DataError(
            f"{len(differences)} difference(s) between the course and its results: build it again"
        )
    logger.info("every number equals its result")


@course.command(cls=Verb)
def run(
    name: Annotated[str, typer.Argument(help="Experiment, or `all`.")],
    profile: Annotated[
        Profile, typer.Option(help="Size of the experiment.", rich_help_panel="Input")
    ] = Profile.quick,
    output: Annotated[
        Path | None,
        typer.Option(
            metavar=DIRECTORY,
            help="Directory of results (default: the one that `course build` reads with this "
            "profile).",
            rich_help_panel="Output",
        ),
    ] = None,
    work: Annotated[
        Path | None,
        typer.Option(
            metavar=DIRECTORY,
            help="Directory for training runs (default: OUTPUT/work; without --output, "
            "results/work in the directory of the course).",
            rich_help_panel="Output",
        ),
    ] = None,
    threads: ThreadsOption = None,
) -> None:
    """Run an experiment of the course and write OUTPUT/NAME.json; trainings resume.

    Example: multistride course run generators --profile quick
    """
    from multistride.course.experiments import EXPERIMENTS, experiment
    from multistride.device import set_threads

    set_threads(threads)
    own = profile.directory() / "results"
    work = work or (output or own) / "work"  # trainings do not belong among recorded results
    output = output or (Path("results/course") if profile == Profile.full else own)
    for each in EXPERIMENTS if name == "all" else (name,):
        path = experiment(each, profile.value, output, work)
        logger.info(f"written: {path}")
