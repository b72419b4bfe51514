"""The evaluation result: the object `multistride evaluate --json` prints and every report reads.

A report is made from such a file and nothing else, so it can be made again years later, without
the model. Unknown keys are errors, except under `settings`, which is a free record of the run.
"""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Annotated, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, JsonValue, ValidationError

from multistride.data.pieces import group_texts
from multistride.errors import DataError
from multistride.untrusted import read_bytes

Share = Annotated[float, Field(ge=0, le=1)]
Score = Annotated[float, Field(ge=0, le=100)]
Amount = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]
Name = Annotated[str, Field(min_length=1)]
Time = Annotated[str, AfterValidator(lambda value: datetime.fromisoformat(value) and value)]
R = TypeVar("R", bound=BaseModel)


class Record(BaseModel):
    """What all records of a result file have in common: frozen, no unknown keys, no infinities."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Decoding(Record):
    """One group size, decoded one way: steps and time, without quality.

    Shares and rates are 0–1, times milliseconds. `identical_to_k1` is None when there was no K=1
    output to compare with. `repetition_at_borders` is the share of groups' first tokens that repeat
    the token before them, `repetition_inside` that of all their other tokens; None where there are
    none of them.
    """

    group_size: Count
    mode: Name
    beam: Count
    engine: Name
    steps_per_sentence: Amount
    tokens_per_step: Amount
    ms_per_sentence_p50: Amount
    ms_per_sentence_p95: Amount
    tokens_per_second: Amount
    repetition_rate: Share
    identical_to_k1: Share | None
    repetition_at_borders: Share | None = None
    repetition_inside: Share | None = None

    @property
    def way(self) -> tuple[str, int, str]:
        """How the row was decoded, apart from K: mode, beam, engine."""
        return self.mode, self.beam, self.engine


class Measurement(Decoding):
    """One row: what one group size, decoded one way, is worth and what it costs.

    BLEU and chrF are 0–100. A "sentence" is one line of the source file, so one word when the kind
    is phonemes.
    """

    bleu: Score
    bleu_signature: Name
    chrf: Score
    chrf_signature: Name
    exact_match: Share
    token_error_rate: Amount
    length_ratio: Amount


class ExampleOutput(Record):
    """What one group size wrote for one example: the text, and its pieces step by step."""

    group_size: Count
    text: str
    groups: tuple[tuple[str, ...], ...]

    def group_texts(self) -> tuple[str, ...]:
        """One readable string per group, in the order written: see `data.pieces`."""
        return group_texts(self.groups)


class Example(Record):
    """One source text, its reference, and what each group size made of it."""

    source: str
    reference: str
    outputs: tuple[ExampleOutput, ...]


class PlaceMeasurement(Record):
    """How well one place of the groups of one size is predicted, given the reference before the
    group.

    `place` counts from 1. `cross_entropy` and `entropy` are in nats, `accuracy` and `confidence`
    (the mean of the highest probability) are 0–1. Where the model is calibrated, accuracy and
    confidence agree; `calibration_error` is the mean distance between them over bins of confidence
    (None in results of older versions).
    """

    group_size: Count
    place: Count
    tokens: Count
    cross_entropy: Amount
    accuracy: Share
    confidence: Share
    entropy: Amount
    calibration_error: Share | None = None


class EvaluationResult(Record):
    """One evaluation of one model on one test set; `created` is an ISO 8601 date and time."""

    name: Name
    kind: Literal["translation", "phonemes"]
    created: Time
    settings: dict[str, JsonValue]
    results: Annotated[tuple[Measurement, ...], Field(min_length=1)]
    examples: tuple[Example, ...] = ()
    places: tuple[PlaceMeasurement, ...] = ()

    @property
    def several_ways(self) -> bool:
        """Whether rows differ in mode, beam or engine, so that K alone does not name a row."""
        return len({measurement.way for measurement in self.results}) > 1

    def baseline(self, measurement: Measurement) -> Measurement | None:
        """The K=1 row a row is compared with: same beam and engine, the same mode if there is one.

        None when no K=1 row was decoded with that beam and engine: a ratio across engines or
        beams would not show what K does.
        """
        candidates = [
            row
            for row in self.results
            if row.group_size == 1
            and (row.beam, row.engine) == (measurement.beam, measurement.engine)
        ]
        same_mode = [row for row in candidates if row.mode == measurement.mode]
        return next(iter(same_mode + candidates), None)


def read_results(path: Path | str) -> EvaluationResult:
    """Read an evaluation result written by `multistride evaluate --json`.

    Raises `DataError`, in one line, when the file is missing, is not JSON, or has another shape.
    """
    return read_record(path, EvaluationResult, "an evaluation result", _WAY_OUT)


def read_record(path: Path | str, kind: type[R], what: str, way_out: str) -> R:
    """Read a file of one kind of result. Raises `DataError`, in one line that ends in `way_out`, if
    it is none.
    """
    text = read_bytes(path, advice=f"a result file is needed: {way_out}")
    try:
        return kind.model_validate_json(text, strict=True)
    except ValidationError as error:
        raise DataError(f"{path} is not {what}: {_first_problem(error)}; {way_out}") from error


_WAY_OUT = "write one with: multistride evaluate --json > result.json"


def _first_problem(error: ValidationError) -> str:
    """The first thing wrong with a file, on one line, and how many more there are."""
    problems = error.errors(include_url=False, include_context=False, include_input=False)
    place = ".".join(str(part) for part in problems[0]["loc"])
    message = " ".join(problems[0]["msg"].split())
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    return f"{place}: {message}{more}" if place else f"{message}{more}"
