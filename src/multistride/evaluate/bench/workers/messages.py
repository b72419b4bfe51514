"""Messages between a benchmark and its workers, one JSON object a line."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from multistride.decode.options import DecodeOptions
from multistride.engines.names import EngineName


class _Message(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Setup(_Message):
    """First line to a worker: what to open, and all sentences it may be asked for."""

    model: Path = Field(description="model directory")
    sources: tuple[tuple[int, ...], ...] = Field(description="tokens of each sentence, without EOS")
    threads: int = Field(1, ge=1, description="CPU threads")
    engine: EngineName = Field("auto", description="of our own contenders")
    device: str = Field("cpu", description="of our own contenders")
    converted: Path | None = Field(None, description="what CTranslate2 reads")
    compute_type: str = Field("int8", description="of CTranslate2")


class Ready(_Message):
    """First line of a worker: what it opened, and how large it was before it did."""

    engine: str
    precision: str
    libraries_mb: float | None


class Turn(_Message):
    """Decode these batches (places in `Setup.sources`), one after the other."""

    batches: tuple[tuple[int, ...], ...]
    options: DecodeOptions


class Sentence(_Message):
    """One decoded sentence: tokens without EOS, their number with EOS, and the passes."""

    tokens: tuple[int, ...]
    written: int
    steps: int


class Answer(_Message):
    """The outcome of a turn: milliseconds of each batch, its sentences, and the largest size."""

    milliseconds: tuple[float, ...]
    sentences: tuple[Sentence, ...]
    peak_mb: float | None


class Failure(_Message):
    """The message and the exit code of the error that ended a worker."""

    message: str
    exit_code: int
