"""The one result of everything that is measured: what `--json` prints and every report reads.

A `Result` has a kind, the conditions it was measured under, one `Row` for every way of decoding,
and examples. A report is made from such a file and nothing else, so it can be made again years
later without the model. `reading.upgrade` reads the files of older versions.

Unknown keys are errors, except under `settings`, which is a free record of the run.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, JsonValue, model_validator

from multistride.data.pieces import group_texts

Share = Annotated[float, Field(ge=0, le=1)]
Score = Annotated[float, Field(ge=0, le=100)]
Amount = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]
Name = Annotated[str, Field(min_length=1)]
Time = Annotated[str, AfterValidator(lambda value: datetime.fromisoformat(value) and value)]
Spread = tuple[Amount, Amount]
"""The lowest and the highest of all rounds."""

Kind = Literal[
    "translation",
    "phonemes",
    "generation",
    "task",
    "benchmark",
    "frontier",
    "profile",
    "startup",
    "other",
]
"""`other` is what the scripts in `examples/` and `benchmarks/` record in forms of their own."""

OWN = "own-k1"
"""The baseline that is greedy K=1 of the same weights on the same engine."""

_DECODED = {"group_size", "mode", "engine"}
_TIMED = {"tokens_per_step", "tokens_per_second", "repetition_rate"}
_SENTENCES = {
    *(_DECODED | _TIMED),
    "beam",
    "steps_per_sentence",
    "ms_per_sentence_p50",
    "ms_per_sentence_p95",
}
_SCORED = {"bleu", "bleu_signature", "chrf", "chrf_signature", "length_ratio"}
_TRANSLATED = _SENTENCES | _SCORED | {"exact_match", "token_error_rate"}
NEEDED: dict[Kind, set[str]] = {
    "translation": _TRANSLATED,
    "phonemes": _TRANSLATED,
    "generation": {
        *(_DECODED | _TIMED),
        "steps_per_text",
        "tokens_per_text",
        "ms_per_text_p50",
        "ms_per_text_p95",
        "repeated_4_grams",
        "identical_to_k1",
    },
    "task": _DECODED | {"metrics", "seconds", "records_per_second"},
    "benchmark": _SENTENCES
    | {"batch_size", "threads", "cpu", "precision", "ms_per_sentence", "ratio_to"},
    "frontier": {"name", "group_size", "steps_per_sentence", "bleu"},
    "profile": {"batch_size", "group_size", "metrics"},
    "startup": {"engine", "seconds", "seconds_spread", "memory_peak_mb"},
    "other": set(),
}
"""What every row of a kind has; other figures may be missing or None."""


class Record(BaseModel):
    """Base of all parts of a result: frozen, no unknown keys, no infinities."""

    model_config = ConfigDict(
        defer_build=True, frozen=True, extra="forbid", allow_inf_nan=False, populate_by_name=True
    )


class Row(Record):
    """One way of decoding and what was measured of it; figures that a kind does not have are None.

    Shares and rates are 0-1, BLEU and chrF 0-100, times milliseconds. "Sentence" is one line of the
    source, so one word when the kind is phonemes; "text" is what follows one prompt; "record" one
    line of a task.
    """

    name: Name | None = Field(None, description="of a baseline, a series, or another label")
    model: Literal["own", "teacher"] = Field("own", description="whose output it is")
    group_size: Count = Field(1, description="tokens per step (K)")
    mode: Name = "fast"
    beam: Count = 1
    engine: Name = "eager"
    batch_size: Count | None = None
    threads: Count | None = None
    cpu: Name | None = None
    precision: Name | None = None

    bleu: Score | None = None
    bleu_signature: Name | None = None
    chrf: Score | None = None
    chrf_signature: Name | None = None
    exact_match: Share | None = None
    token_error_rate: Amount | None = None
    length_ratio: Amount | None = None
    perplexity: Amount | None = Field(None, description="of the references, in tokens")

    steps_per_sentence: Amount | None = None
    steps_per_text: Amount | None = None
    tokens_per_text: Amount | None = None
    tokens_per_step: Amount | None = Field(None, description="tokens kept per network pass")
    ms_per_sentence: Amount | None = Field(None, description="of the median round")
    ms_per_sentence_spread: Spread | None = Field(None, description="fastest and slowest round")
    ms_per_sentence_p50: Amount | None = None
    ms_per_sentence_p95: Amount | None = None
    ms_per_text_p50: Amount | None = None
    ms_per_text_p95: Amount | None = None
    ms_per_record_p50: Amount | None = None
    ms_per_record_p95: Amount | None = None
    tokens_per_second: Amount | None = None
    seconds: Amount | None = Field(None, description="for all records, in batches")
    seconds_spread: Spread | None = None
    records_per_second: Amount | None = None
    memory_peak_mb: Amount | None = Field(None, description="of the process while it decoded")
    memory_libraries_mb: Amount | None = Field(None, description="before a model was opened")
    bandwidth_fraction: Amount | None = Field(
        None, description="weights read per second over the memory bandwidth; above 1: from a cache"
    )

    repetition_rate: Share | None = Field(None, description="tokens equal to the one before them")
    repetition_at_borders: Share | None = Field(None, description="of first tokens of groups")
    repetition_inside: Share | None = Field(None, description="of all other tokens")
    repetition_by_distance: dict[str, Share] = {}
    repeated_4_grams: Share | None = None
    distinct_1: Share | None = None
    distinct_2: Share | None = None
    distinct_3: Share | None = None
    self_bleu: Share | None = None

    identical_to_k1: Share | None = Field(None, description="outputs with the tokens of greedy K=1")
    same_as_k1: Share | None = Field(None, description="answers equal to those of K=1")
    ratio_to: dict[str, Amount] = Field({}, description="times as fast as each baseline")
    ratio_spread: dict[str, Spread] = {}

    metrics: dict[str, float] = Field({}, description="figures that only this task has")
    details: dict[str, Any] = {}

    @property
    def way(self) -> tuple[str, int, str]:
        """Return how the row was decoded, apart from K: mode, beam, engine."""
        return self.mode, self.beam, self.engine

    @property
    def latency(self) -> tuple[float, float] | None:
        """Return the median and the 95th percentile of milliseconds for one input alone."""
        for unit in ("sentence", "text", "record"):
            median, slow = (getattr(self, f"ms_per_{unit}_{part}") for part in ("p50", "p95"))
            if median is not None and slow is not None:
                return median, slow
        return None

    def value(self, name: str) -> float | None:
        """Return a figure by its name, be it one of all kinds or one of this task."""
        found = self.metrics.get(name, getattr(self, name, None))
        return None if found is None else float(found)


class Output(Record):
    """The text that one way of decoding wrote for an example, and its pieces step by step."""

    group_size: Count
    mode: Name = "fast"
    text: str
    groups: tuple[tuple[str, ...], ...] = ()

    def group_texts(self) -> tuple[str, ...]:
        """Return one readable string per group, in order: see `data.pieces`."""
        return group_texts(self.groups)


class Example(Record):
    """One input, its reference if there is one, and what each row made of it."""

    source: str
    reference: str | None = None
    outputs: tuple[Output, ...]


class Place(Record):
    """Accuracy and confidence at one place of the groups of one size, given the reference.

    `place` counts from 1. Entropies are in nats. Where the model is calibrated, accuracy and
    confidence (the mean of the highest probability) agree.
    """

    group_size: Count
    place: Count
    tokens: Count
    cross_entropy: Amount
    accuracy: Share
    confidence: Share
    entropy: Amount
    calibration_error: Share | None = None


class Crossing(Record):
    """The smallest measured batch at which a row is slower than a baseline (None: there is
    none).
    """

    baseline: Name
    engine: Name
    mode: Name
    group_size: Count
    batch_size: Count | None


class Result(Record):
    """One measurement: its kind, its conditions, one row for every way of decoding, examples."""

    name: Name
    kind: Kind
    task: str | None = Field(None, description="the name of the task, of kind task")
    created: Time | None = Field(None, description="an ISO 8601 date and time")
    conditions: dict[str, JsonValue] = Field({}, alias="settings")
    rows: tuple[Row, ...] = Field(alias="results", min_length=1)
    baselines: tuple[Row, ...] = Field((), description="what the ratios of a benchmark are to")
    crossings: tuple[Crossing, ...] = ()
    examples: tuple[Example, ...] = ()
    places: tuple[Place, ...] = ()

    @model_validator(mode="after")
    def _complete(self) -> Result:
        for index, row in enumerate(self.rows):
            for name in sorted(NEEDED[self.kind]):
                if name not in row.model_fields_set or _lacking(self.kind, name, row):
                    raise ValueError(f"results.{index}.{name}: it is missing")
        if self.created is None and self.kind not in ("profile", "startup", "other"):
            raise ValueError("created: it is missing")
        return self

    @property
    def several_ways(self) -> bool:
        """Return whether rows differ in mode, beam or engine, so that K does not name a row."""
        return len({row.way for row in self.rows}) > 1

    @property
    def unit(self) -> str:
        """Return what is measured one by one: a sentence, a word, a text, a record."""
        return {"phonemes": "word", "generation": "text", "task": "record"}.get(
            self.kind, "sentence"
        )

    @property
    def baseline_names(self) -> list[str]:
        """Return the names of the baselines, in order."""
        return list(dict.fromkeys(row.name for row in self.baselines if row.name))

    def baseline(self, row: Row) -> Row | None:
        """Return the row that a row is compared with.

        For tasks and causal models that is the teacher, else K=1, else the first row. Otherwise it
        is K=1 with the same beam and engine, of the same mode if there is one; None without such
        a row, since a ratio across engines or beams would not show what K does.
        """
        alone = [other for other in self.rows if other.group_size == 1]
        if self.kind in ("task", "generation"):
            teachers = [other for other in self.rows if other.model == "teacher"]
            return [*teachers, *alone, *self.rows][0]
        alike = [other for other in alone if (other.beam, other.engine) == (row.beam, row.engine)]
        same_mode = [other for other in alike if other.mode == row.mode]
        return next(iter(same_mode + alike), None)

    def written(self) -> dict[str, Any]:
        """Return the result as JSON: only what was measured, a task's conditions on the top."""
        tree: dict[str, Any] = self.model_dump(mode="json", by_alias=True, exclude_unset=True)
        if self.kind == "task":
            settings = dict(tree.pop("settings", {}))
            lifted = {name: settings.pop(name) for name in TASK_CONDITIONS if name in settings}
            rows = tree.pop("results")
            return {**tree, **lifted, "settings": settings, "results": rows}
        return tree


TASK_CONDITIONS = (
    "multistride",
    "model",
    "model_sha256",
    "provenance",
    "teacher",
    "source",
    "source_sha256",
    "records",
    "failed",
    "machine",
)
"""Conditions of a task that its files have beside `settings`; scripts read them there."""


def _lacking(kind: Kind, name: str, row: Row) -> bool:
    """Return whether a figure that a kind needs is None; a benchmark may have no references."""
    return getattr(row, name) is None and not (kind == "benchmark" and name in _SCORED)


def crossings(rows: tuple[Row, ...]) -> tuple[Crossing, ...]:
    """Return where each line of rows of a benchmark stops being faster than each baseline."""
    found = []
    lines = dict.fromkeys((row.engine, row.mode, row.group_size) for row in rows)
    for engine, mode, group_size in lines:
        alike = sorted(
            (
                row
                for row in rows
                if (row.engine, row.mode, row.group_size) == (engine, mode, group_size)
            ),
            key=lambda row: row.batch_size or 0,
        )
        for name in alike[0].ratio_to:
            if (name, group_size) == (OWN, 1):
                continue
            slower = [row.batch_size for row in alike if row.ratio_to[name] < 1]
            found.append(
                Crossing(
                    baseline=name,
                    engine=engine,
                    mode=mode,
                    group_size=group_size,
                    batch_size=slower[0] if slower else None,
                )
            )
    return tuple(found)
