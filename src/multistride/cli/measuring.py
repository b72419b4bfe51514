"""The verb that measures what decoding may rely on: `calibrate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from multistride.cli.options import DeviceOption, JsonOption, ThreadsOption
from multistride.console import print_json, say


def calibrate(
    model: Annotated[Path, typer.Option(help="Model directory; calibration.json is written into it.")],
    source: Annotated[Path, typer.Option(help="Source text that the model was not trained on, one a line.")],
    reference: Annotated[
        Path | None, typer.Option(help="What is right, line by line; left out: what K=1 of the model writes.")
    ] = None,
    device: DeviceOption = "auto",
    threads: ThreadsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Measure how sure a model may be of its groups, and store it.

    Adaptive mode then uses corrected probabilities, and --group-size auto works. Shows the calibration error before
    and after, on sentences that nothing was fitted on.

    Example: multistride calibrate --model RUN/best --source validation.en
    """
    from rich.console import Console

    from multistride.device import set_threads
    from multistride.evaluate.calibrate import calibrate as measure
    from multistride.files import write_json
    from multistride.model.weights import CALIBRATION
    from multistride.report.calibration import calibration_table
    from multistride.translator import Translator

    set_threads(threads)
    measured = measure(Translator.load(model, device), model, source, reference, say).model_dump(mode="json")
    write_json(model / CALIBRATION, measured)
    say(f"written: {model / CALIBRATION}")
    if as_json:
        print_json(measured)
    else:
        Console().print(calibration_table(measured))
