"""The verbs about models and this machine: `convert`, `export`, `models`, `doctor`."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Annotated, Any

import typer

from multistride.cli.console import print_json
from multistride.cli.options import JsonOption, model_directory
from multistride.decode.options import MOST_COPIED
from multistride.shipped import DEFAULT, Origin, directory, names, origins
from multistride.untrusted import read_object, read_text

logger = logging.getLogger(__name__)


def convert(
    source: Annotated[
        str,
        typer.Argument(
            help="Directory as transformers writes it, GGUF file, name on the Hugging Face hub, or "
            "smollm2 (see multistride models)."
        ),
    ],
    directory: Annotated[Path, typer.Argument(help="Model directory to write.")],
    download: Annotated[
        bool,
        typer.Option(
            "--download",
            help="Download the model from the hub; without this option only the local cache is "
            "searched.",
            rich_help_panel="Input",
        ),
    ] = False,
    source_language: Annotated[
        str | None,
        typer.Option(
            help="Source language, for tokenizers with language codes (NLLB: eng_Latn).",
            rich_help_panel="Input",
        ),
    ] = None,
    target_language: Annotated[
        str | None,
        typer.Option(
            help="Target language, whose code begins every target (NLLB: fra_Latn).",
            rich_help_panel="Input",
        ),
    ] = None,
) -> None:
    """Convert a Hugging Face or GGUF checkpoint to a model directory.

    At K=1 the model writes what the original writes; larger groups need training. Weights in
    pickles are refused, and no code of a checkpoint is ever run.

    Example: multistride convert --download HuggingFaceTB/SmolLM2-135M-Instruct models/smollm2
    """
    from multistride.convert.run import convert as convert_checkpoint
    from multistride.convert.tokenizer import Languages

    languages = Languages(source_language, target_language)
    result = convert_checkpoint(source, directory, download, languages)
    parameters = sum(parameter.numel() for parameter in result.model.parameters())
    logger.info(
        f"written: {directory} ({result.checkpoint.model_type}, "
        f"{parameters / 1e6:,.1f} million parameters)"
    )


def export(
    model: Annotated[
        Path,
        typer.Argument(
            help="A model that ships, or a model directory such as RUN/best.",
            callback=model_directory,
        ),
    ],
    output: Annotated[Path, typer.Argument(help="Directory to write.")],
    to: Annotated[
        str,
        typer.Option(
            help="Format: int8 (ONNX, for --engine int8), or ctranslate2 (for that program, "
            "at K=1; "
            "extra [bench]).",
            rich_help_panel="Output",
        ),
    ] = "int8",
) -> None:
    """Export a model in the format of a faster engine or of another program.

    An int8 export is smaller and loads without the float32 weights. It can translate, but it cannot
    be scored or trained.

    Example: multistride export RUN/best RUN/int8 --to int8
    """
    from multistride.baselines.export import export as export_model

    export_model(model, to, output)
    logger.info(f"written: {output}")


def models(as_json: JsonOption = False) -> None:
    """List the models that ship with the package, for `--model NAME`.

    Size is that of the weights; quality and speed are what the model's card reports on its first
    test set. Of some models only drafts for exact mode ship: two commands, shown here, fetch the
    weights and make the model.

    Example: multistride models --json
    """
    facts = [shipped_facts(name) for name in names()] + [drafts_facts(each) for each in origins()]
    if as_json:
        print_json(facts)
        return
    for fact in facts:
        default = "  (default)" if fact["directory"] == str(DEFAULT) else ""
        sizes = ", ".join(map(str, fact["group_sizes"]))
        size, origin = f"{fact['bytes'] / 1e6:.0f} MB", fact["origin"]
        if origin:
            size = f"drafts of {size}, weights in the package {origin['package']}"
            sizes = f"1 to {MOST_COPIED}"
        print(f"{fact['name']}{default}")
        print(f"  {fact['title']}")
        print(f"  {fact['task']} {'→'.join(fact['languages'])}, {size}, ", end="")
        print(f"licence {fact['licence']}, K in {sizes}")
        print(f"  {_told(fact)}")
        if origin:
            print(f"  {origin['install']} && {origin['convert']}")


def doctor(as_json: JsonOption = False) -> None:
    """Show what runs on this machine, and what is missing.

    Versions, CPU features, engines (and why one does not run here), extras with the command that
    installs them, models that ship, cache directories.

    Example: multistride doctor
    """
    from multistride.cli.installation import examine, lines

    facts = examine()
    if as_json:
        print_json(facts)
    else:
        print("\n".join(lines(facts)))


def shipped_facts(name: str) -> dict[str, Any]:
    """Return what the card and the configuration of a shipped model say."""
    path = directory(name)
    config = read_object(path / "config.json")
    return {
        **_card_facts(path),
        "bytes": (path / "model.safetensors").stat().st_size,
        "group_sizes": config["group_sizes"],
        "engine": "eager",
        "origin": None,
    }


def drafts_facts(origin: Origin) -> dict[str, Any]:
    """Return what is known of a model of which only drafts ship, under the same names."""
    install, convert = origin.commands
    facts = _card_facts(origin.directory)
    return {
        **facts,
        "bytes": sum(path.stat().st_size for path in origin.drafts()),
        "group_sizes": list(range(1, MOST_COPIED + 1)),
        "engine": "int8",
        "origin": {
            "package": origin.package,
            "file": origin.file,
            "sha256": origin.sha256,
            "install": install,
            "convert": convert,
        },
    }


def _card_facts(path: Path) -> dict[str, Any]:
    """Return what the card in a directory says."""
    card = read_text(path / "README.md")
    title = re.search(r"^# (.+)$", card, re.MULTILINE)
    return {
        "name": path.name,
        "title": title[1] if title else path.name,
        "task": _front_matter(card, "pipeline_tag"),
        "languages": re.findall(r"\w+", _front_matter(card, "language")),
        "licence": _front_matter(card, "license"),
        **_measured(card),
        "directory": str(path),
    }


def _measured(card: str) -> dict[str, Any]:
    """Return the figures of K=1 and K=4 in the first table by K of a card."""
    section = card.partition("\n## Measured\n")[2]
    table = re.search(r"^\| *K *\|.*(?:\n\|.*)+", section, re.MULTILINE)
    if table is None:
        return {"test_set": None, "metric": None, "quality": {}, "milliseconds": {}, "unit": None}
    head, _, *rows = [
        [cell.strip() for cell in row.strip("|").split("|")] for row in table[0].split("\n")
    ]
    taken = {row[0]: row for row in rows if row[0] in ("1", "4")}
    timed = next(place for place, name in enumerate(head) if name.startswith("ms/"))
    return {
        "test_set": section.strip().partition(",")[0],
        "metric": head[1],
        "quality": {k: float(row[1]) for k, row in taken.items()},
        "milliseconds": {k: float(row[timed].split()[0]) for k, row in taken.items()},
        "unit": head[timed].split()[0].removeprefix("ms/"),
    }


def _told(fact: dict[str, Any]) -> str:
    """Return the figures of a model in words."""
    if not fact["quality"]:
        return "no quality in its card"
    quality = ", ".join(f"{value} at K={k}" for k, value in fact["quality"].items())
    times = " and ".join(f"{value:g}" for value in fact["milliseconds"].values())
    unit, engine = fact["unit"], fact["engine"]
    return f"{fact['test_set']}: {fact['metric']} {quality}; {times} ms a {unit} on {engine}"


def _front_matter(card: str, key: str) -> str:
    value = re.search(rf"^{key}: *(.+)$", card, re.MULTILINE)
    return value[1] if value else ""
