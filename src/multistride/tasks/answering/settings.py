"""Settings for reading passages and ranking choices."""

from __future__ import annotations

from typing import Literal

from pydantic import ConfigDict, Field

from multistride.decode.options import DECODING
from multistride.settings import Settings


class AnswerSettings(Settings):
    """Settings for answering from a passage or by choices. Frozen; unknown keys are errors."""

    model_config = ConfigDict(defer_build=True)

    free: bool = Field(
        False,
        description="Allow any text as an answer, not only a span of the passage.",
        json_schema_extra=DECODING,
    )
    window: int | None = Field(
        None,
        ge=8,
        description="Cut a long passage into windows of this many words (default: as many as the "
        "model can read).",
        json_schema_extra={"panel": "Input"},
    )
    windows: int = Field(
        3,
        ge=1,
        description="Number of windows to read, picked by BM25 (extra [tasks]).",
        json_schema_extra={"panel": "Input"},
    )
    choose: Literal["average", "total"] = Field(
        "average",
        description="Rank choices by log-probability per token (average) or in total.",
        json_schema_extra=DECODING,
    )
