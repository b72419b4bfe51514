"""Destinations of a result: options of the verbs that measure. Imports nothing slow."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field


class Outputs(BaseModel):
    """Destinations of a result. Frozen; unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    output: Path | None = Field(
        None,
        description="Also write the result as JSON to this file, in place of one that was there.",
        json_schema_extra={"panel": "Output"},
    )
    markdown: Path | None = Field(
        None,
        description="Write the tables in Markdown to this file.",
        json_schema_extra={"panel": "Output"},
    )
    picture: Path | None = Field(
        None,
        description="Draw quality against speed into this file (.svg or .png; extra [report]).",
        json_schema_extra={"panel": "Output"},
    )
    as_json: bool = Field(
        False,
        description="Print one JSON object on stdout instead of tables.",
        json_schema_extra={"panel": "Output", "option": "--json"},
    )

    @property
    def files(self) -> list[Path | None]:
        """Return the files that are written."""
        return [self.output, self.markdown, self.picture]
