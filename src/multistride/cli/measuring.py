"""The verbs that measure: `evaluate` one model, `bench` many; `calibrate` finds out what decoding
may rely on.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from multistride.cli.console import numbers, print_json, say, words
from multistride.cli.options import (
    BeamOption,
    DeviceOption,
    DraftsOption,
    EngineOption,
    GroupSizesOption,
    JsonOption,
    KindOption,
    LayoutOption,
    ModelOption,
    ModeOption,
    PolicyOption,
    ReferenceOption,
    TaskOption,
    TeacherOption,
    ThreadsOption,
    ThresholdOption,
    refuse_search,
)
from multistride.cli.tasks import evaluate_records
from multistride.errors import UsageError


def calibrate(
    model: Annotated[
        Path, typer.Option(help="Model directory; calibration.json is written into it.")
    ],
    source: Annotated[
        Path, typer.Option(help="Source text that the model was not trained on, one a line.")
    ],
    reference: Annotated[
        Path | None,
        typer.Option(help="What is right, line by line; left out: what K=1 of the model writes."),
    ] = None,
    group_size: Annotated[
        int, typer.Option(min=1, help="Classifiers that score labels: their tokens per step.")
    ] = 1,
    device: DeviceOption = "auto",
    threads: ThreadsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Measure how sure a model may be of its groups, and store it.

    Of a classifier: one temperature for its probabilities; --source has records with a text and a
    label.

    Adaptive mode then uses corrected probabilities, and --group-size auto works. Shows the
    calibration error before and after, on sentences that nothing was fitted on.

    Example: multistride calibrate --model RUN/best --source validation.en
    """
    from rich.console import Console

    from multistride.device import set_threads
    from multistride.evaluate.calibrate import calibrate as measure
    from multistride.files import write_json
    from multistride.model.weights import CALIBRATION, load_config
    from multistride.report.calibration import calibration_table
    from multistride.translator import Translator

    set_threads(threads)
    if load_config(model).classifier is not None:
        _calibrate_classifier(model, source, reference, group_size, device, as_json)
        return
    if group_size != 1:
        raise UsageError(
            "--group-size is for classifiers, other models are measured at all of theirs: leave it out"
        )
    measured = measure(Translator.load(model, device), model, source, reference, say).model_dump(
        mode="json"
    )
    write_json(model / CALIBRATION, measured)
    say(f"written: {model / CALIBRATION}")
    if as_json:
        print_json(measured)
    else:
        Console().print(calibration_table(measured))


def _calibrate_classifier(
    model: Path, source: Path, reference: Path | None, group_size: int, device: str, as_json: bool
) -> None:
    """`calibrate` for a classifier."""
    from multistride.evaluate.confidence import calibrate_classifier
    from multistride.files import write_json
    from multistride.model.weights import TEMPERATURE
    from multistride.tasks.classification.classifier import Classifier

    if reference is not None:
        raise UsageError(
            "--reference is not for classifiers, whose records have the label: leave it out"
        )
    classifier = Classifier.load(model, device, group_size, calibrated=False)
    measured = calibrate_classifier(classifier, model, source, say)
    write_json(model / TEMPERATURE, measured.model_dump(mode="json"))
    say(f"written: {model / TEMPERATURE}")
    if as_json:
        print_json(measured.model_dump(mode="json"))
    else:
        before, after = 100 * measured.error_before, 100 * measured.error_after
        say(
            f"temperature {measured.temperature:.2f}: off by {before:.1f} % before, {after:.1f} % after"
        )


def bench(
    source: Annotated[Path, typer.Option(help="Source text, one a line.")],
    reference: Annotated[
        Path | None, typer.Option(help="Its translations, for BLEU beside the speed.")
    ] = None,
    model: ModelOption = None,
    group_size: GroupSizesOption = "1,2,4,8",
    batch_size: Annotated[
        str, typer.Option(help="Sentences decoded together, comma-separated.")
    ] = "1,8,32",
    mode: Annotated[str, typer.Option(help="fast, adaptive, exact; comma-separated.")] = "fast",
    threshold: ThresholdOption = None,
    engine: Annotated[
        str, typer.Option(help="Our engines, comma-separated; see translate.")
    ] = "eager",
    device: Annotated[
        str, typer.Option(help="Where our engines compute: cpu, cuda or auto.")
    ] = "cpu",
    threads: Annotated[int, typer.Option(help="CPU threads of every contender.")] = 1,
    against: Annotated[
        str,
        typer.Option(
            help="own-k1, ctranslate2-int8, ctranslate2-float32, transformers-float32; comma-separated."
        ),
    ] = "own-k1",
    against_model: Annotated[
        Path | None, typer.Option(help="Another model, at K=1 on the same engines.")
    ] = None,
    sentences: Annotated[
        int, typer.Option(help="Lines that are timed, spread over the file.")
    ] = 100,
    rounds: Annotated[
        int, typer.Option(help="Times everything is measured; medians are taken.")
    ] = 3,
    tokenize: Annotated[
        str, typer.Option(help="sacreBLEU tokenizer: 13a, zh, char, none, ...")
    ] = "13a",
    require: Annotated[
        list[str] | None,
        typer.Option(help="Exit with 5 unless, say, k=4,batch=1,ctranslate2-int8>=5. Repeatable."),
    ] = None,
    name: Annotated[str | None, typer.Option(help="Title of the result.")] = None,
    output: Annotated[
        Path | None, typer.Option(help="Write the result object to this file as well.")
    ] = None,
    markdown: Annotated[
        Path | None, typer.Option(help="Write the tables in Markdown to this file.")
    ] = None,
    picture: Annotated[
        Path | None, typer.Option(help="Write quality against speed to this file (SVG).")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Measure speed against other programs, in turns.

    Every contender gets the same sentences in the same batches and decodes greedily until EOS. A
    ratio above 1 means that we are faster.

    Example: multistride bench --source test.en --reference test.de --against
    own-k1,ctranslate2-int8
    """
    sizes, batches = numbers(group_size), numbers(batch_size, "--batch-size")

    from multistride.config import validate
    from multistride.evaluate.bench.gate import check_met
    from multistride.evaluate.bench.run import BenchRequest
    from multistride.evaluate.bench.run import bench as measure
    from multistride.report.benchmark_figure import check_picture
    from multistride.report.show import show_benchmark
    from multistride.shipped import DEFAULT

    if picture is not None:
        check_picture(reference)
    name = name or (model.parent.name if model else DEFAULT.name)
    files = {"model": model or DEFAULT, "source": source, "reference": reference, "name": name}
    decoding = {
        "group_sizes": sizes,
        "batch_sizes": batches,
        "modes": words(mode),
        "threshold": threshold,
    }
    machine = {"engines": words(engine), "device": device, "threads": threads}
    others = {
        "against": words(against),
        "against_model": against_model,
        "require": tuple(require or ()),
    }
    amounts = {"sentences": sentences, "rounds": rounds, "tokenize": tokenize}
    request = validate(BenchRequest, {**files, **decoding, **machine, **others, **amounts}, "bench")
    result = measure(request, say)
    show_benchmark(result, output, markdown, picture, table=not as_json, report=say)
    if as_json:
        print_json(result.model_dump(mode="json"))
    check_met(request.requirements(), result)


def evaluate(
    source: Annotated[Path, typer.Option(help="Source text (or prompts), one a line.")],
    reference: ReferenceOption = None,
    model: ModelOption = None,
    group_size: GroupSizesOption = "1",
    mode: ModeOption = "fast",
    threshold: ThresholdOption = None,
    policy: PolicyOption = None,
    layout: LayoutOption = None,
    drafts: DraftsOption = None,
    beam: BeamOption = 1,
    kind: KindOption = "translation",
    max_tokens: Annotated[
        int | None, typer.Option(help="generation: most tokens written (64).")
    ] = None,
    chat: Annotated[
        bool, typer.Option("--chat", help="generation: prompts are turns in the model's chat.")
    ] = False,
    task: TaskOption = None,
    teacher: TeacherOption = None,
    tokenize: Annotated[
        str, typer.Option(help="sacreBLEU tokenizer: 13a, zh, char, none, ...")
    ] = "13a",
    name: Annotated[str | None, typer.Option(help="Title of the result.")] = None,
    batch_size: Annotated[
        int, typer.Option(min=1, help="Sentences decoded together for throughput.")
    ] = 32,
    latency_sentences: Annotated[int, typer.Option(min=1, help="Sentences timed alone.")] = 100,
    examples: Annotated[int, typer.Option(min=0, help="Worked examples kept in the result.")] = 3,
    limit: Annotated[int | None, typer.Option(min=1, help="Use only the first lines.")] = None,
    output: Annotated[
        Path | None, typer.Option(help="Write the result object to this file as well.")
    ] = None,
    engine: EngineOption = "eager",
    device: DeviceOption = "auto",
    threads: ThreadsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Measure quality, steps and latency by group size.

    Causal models (--kind generation): perplexity of the references given the prompts, repetition,
    distinct words, steps and latency of what is written; --mode may name several, such as
    fast,exact.

    Tasks (--task): the figures of a task over records; one that has no answer is reported, and the
    exit code is 4.

    Example: multistride evaluate --model RUN/best --source test.en --reference test.de --group-size
    1,2,4 --json
    """
    if task is not None:
        evaluate_records(locals())
        return
    if teacher is not None:
        raise UsageError(
            "--teacher was given, which is for --task generation: leave it out, or name the task"
        )
    amounts = {"batch_size": batch_size, "limit": limit, "examples": examples}
    shared = {
        "model": model,
        "source": source,
        "reference": reference,
        "name": name,
        "threshold": threshold,
    }
    tree = {**shared, **amounts, "group_sizes": numbers(group_size)}
    shown = (output, as_json)
    if kind == "generation":
        refuse_search(beam, tokenize, policy, layout)
        own = {
            "modes": tuple(mode.split(",")),
            "drafts": drafts,
            "max_tokens": max_tokens or 64,
            "chat": chat,
        }
        _evaluate_generation(
            {**tree, **own, "latency_texts": latency_sentences}, engine, device, threads, shown
        )
        return
    if reference is None:
        raise UsageError("--reference is missing: give the reference translations, line by line")
    if chat or drafts or max_tokens is not None:
        raise UsageError(
            "--chat, --drafts and --max-tokens are for --kind generation: leave them out"
        )
    ways = {
        "mode": mode,
        "policy": policy,
        "layout": layout,
        "beam": beam,
        "kind": kind,
        "tokenize": tokenize,
    }
    _evaluate_pairs(
        {**tree, **ways, "latency_sentences": latency_sentences}, engine, device, threads, shown
    )


def _evaluate_pairs(
    tree: dict[str, Any],
    engine: str,
    device: str,
    threads: int | None,
    shown: tuple[Path | None, bool],
) -> None:
    """`evaluate` for a translation model."""
    from multistride.config import validate
    from multistride.device import set_threads
    from multistride.evaluate.run import EvaluationRequest, evaluate
    from multistride.report.tables import quality_table
    from multistride.shipped import DEFAULT
    from multistride.translator import Translator

    model = tree["model"]
    named = {
        "model": model or DEFAULT,
        "name": tree["name"] or (model.parent.name if model else DEFAULT.name),
    }
    request = validate(EvaluationRequest, {**tree, **named}, "evaluate")
    set_threads(threads)
    _show(
        evaluate(request, Translator.load(model, device, engine, say), say), quality_table, *shown
    )


def _evaluate_generation(
    tree: dict[str, Any],
    engine: str,
    device: str,
    threads: int | None,
    shown: tuple[Path | None, bool],
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
