"""The result of evaluating a causal model, and its table. Made from the result alone; no model is
needed.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from multistride.errors import DataError
from multistride.untrusted import read_json

Share = Annotated[float, Field(ge=0, le=1)]
Amount = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class GenerationMeasurement(_Record):
    """One row: what one group size in one mode is worth and what it costs. Shares are 0–1, times
    milliseconds.

    perplexity           of the references given their prompts, in tokens, one parallel pass in the slots of this K;
                         None without references, and for adapters, which only draft
    tokens_per_step      tokens kept per network pass, those that read prompts not counted
    repetition_rate      tokens equal to the token just before them in the same text
    repeated_4_grams     runs of four tokens that stood in the same text before
    distinct_1, 2, 3     different runs of n tokens per run of n tokens, over all texts (arXiv 1510.03055, 5.2)
    repetition_by_distance   tokens equal to the one so many places before them, by the distance
    self_bleu            how alike the texts are, see `tasks.coherence`; neither is in results of older versions
    identical_to_k1      texts whose tokens are those of the same model's greedy K=1
    """

    group_size: Count
    mode: str
    engine: str
    perplexity: Amount | None
    steps_per_text: Amount
    tokens_per_text: Amount
    tokens_per_step: Amount
    ms_per_text_p50: Amount
    ms_per_text_p95: Amount
    tokens_per_second: Amount
    repetition_rate: Share
    repeated_4_grams: Share
    distinct_1: Share
    distinct_2: Share
    distinct_3: Share
    repetition_by_distance: dict[str, Share] = {}
    self_bleu: Share | None = None
    identical_to_k1: Share


class Continuation(_Record):
    """A prompt, and what each row wrote after it; the n-th text belongs to the n-th row."""

    prompt: str
    texts: tuple[str, ...]


class GenerationResult(_Record):
    """One evaluation of one causal model on one set of prompts; `created` is an ISO 8601 date and
    time.
    """

    name: str
    kind: Literal["generation"] = "generation"
    created: str
    settings: dict[str, JsonValue]
    results: Annotated[tuple[GenerationMeasurement, ...], Field(min_length=1)]
    examples: tuple[Continuation, ...] = ()


def read_generation(path: Path) -> GenerationResult | None:
    """The result in a file; None if it is of another kind, which `results.read_results` then
    judges.

    Raises `DataError` for a generation result that is damaged.
    """
    try:
        found = read_json(path)
    except DataError:
        return None
    if not isinstance(found, dict) or found.get("kind") != "generation":
        return None
    try:
        return GenerationResult.model_validate(found)
    except ValidationError as error:
        problem = error.errors(include_url=False, include_context=False, include_input=False)[0]
        place = ".".join(map(str, problem["loc"]))
        raise DataError(
            f"{path} is not a generation result: {place}: {problem['msg']}; evaluate again"
        ) from error


Show = Callable[[GenerationMeasurement, GenerationMeasurement], str]


def _percent(value: float) -> str:
    return f"{100 * value:.1f}"


COLUMNS: tuple[tuple[str, Show], ...] = (
    ("K", lambda row, first: f"{row.group_size}"),
    ("mode", lambda row, first: row.mode),
    ("perplexity", lambda row, first: "–" if row.perplexity is None else f"{row.perplexity:.1f}"),
    ("tokens/step", lambda row, first: f"{row.tokens_per_step:.2f}"),
    (
        "ms/text p50 (p95)",
        lambda row, first: f"{row.ms_per_text_p50:,.0f} ({row.ms_per_text_p95:,.0f})",
    ),
    ("speed up", lambda row, first: f"{first.ms_per_text_p50 / row.ms_per_text_p50:.2f}×"),
    ("tokens/s", lambda row, first: f"{row.tokens_per_second:,.0f}"),
    ("repeats %", lambda row, first: _percent(row.repetition_rate)),
    ("repeated 4-grams %", lambda row, first: _percent(row.repeated_4_grams)),
    ("distinct-2 %", lambda row, first: _percent(row.distinct_2)),
    ("same as K=1 %", lambda row, first: _percent(row.identical_to_k1)),
)
"""Headings, and how a row is shown beside the first one, which speed is compared with."""


def generation_rows(result: GenerationResult) -> list[list[str]]:
    """The cells of every row, in the order of `COLUMNS`."""
    return [[show(row, result.results[0]) for _, show in COLUMNS] for row in result.results]


def generation_table(result: GenerationResult) -> Table:
    """What each group size and mode is worth, for the terminal."""
    table = Table(
        title=Text(result.name), title_justify="left", box=SIMPLE_HEAD, padding=0, pad_edge=False
    )
    for heading, _ in COLUMNS:
        table.add_column(
            Text(heading.replace(" ", "\n", 1)), justify="left" if heading == "mode" else "right"
        )
    for row in generation_rows(result):
        table.add_row(*map(Text, row))
    return table


def generation_markdown(result: GenerationResult) -> str:
    """The same as a Markdown table. Ends with a line break."""
    headings = [heading for heading, _ in COLUMNS]
    rules = [":--" if heading == "mode" else "--:" for heading in headings]
    return "".join(
        f"| {' | '.join(cells)} |\n" for cells in (headings, rules, *generation_rows(result))
    )


def show_generation(result: GenerationResult, markdown: bool) -> None:
    """Print the table on stdout, as Markdown or for the terminal."""
    if markdown:
        print(generation_markdown(result), end="")
    else:
        Console().print(generation_table(result))
