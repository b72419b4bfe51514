"""Options that several verbs share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

ModelOption = Annotated[
    Path | None,
    typer.Option("--model", help="Model directory, for example RUN/best; left out: the English-German one we ship."),
]
GroupSizesOption = Annotated[str, typer.Option("--group-size", help="Tokens per step (K), comma-separated.")]
DeviceOption = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")]
EngineOption = Annotated[str, typer.Option(help="What computes: eager (PyTorch, float32).")]
ThreadsOption = Annotated[int | None, typer.Option(help="CPU threads; left out: PyTorch's choice.")]
BeamOption = Annotated[int, typer.Option(min=1, help="Hypotheses kept while searching; 1 is greedy.")]
ModeOption = Annotated[
    str, typer.Option(help="fast: all tokens of a group are kept; adaptive: the sure ones; exact: the text of K=1.")
]
ThresholdOption = Annotated[
    float | None, typer.Option(help="adaptive: keep tokens while they are together this probable (0.5).")
]
MinLengthOption = Annotated[int, typer.Option(help="No end before so many tokens.")]
MaxLengthOption = Annotated[
    int | None, typer.Option(help="Most tokens, the end included; left out: it follows from the source.")
]
PrefixOption = Annotated[str, typer.Option(help="Text that every translation begins with.")]
BanOption = Annotated[list[str] | None, typer.Option("--ban", help="A text that is never written; may be repeated.")]
BanTokenOption = Annotated[
    list[int] | None, typer.Option("--ban-token", help="The id of a token that is never written; may be repeated.")
]
NoRepeatOption = Annotated[
    int, typer.Option("--no-repeat-ngram", help="No so many tokens in a row are written twice; 0: no such rule.")
]
StopOption = Annotated[
    list[str] | None, typer.Option("--stop", help="A text that ends a translation and is cut off; may be repeated.")
]
PolicyOption = Annotated[
    str | None,
    typer.Option(help="How many tokens a step proposes: fixed, confidence, cost-model, phase, autoregressive."),
]
LayoutOption = Annotated[
    str | None, typer.Option(help="sat: as in the paper; lookahead: masks behind known tokens; left out: what suits.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]
