"""The base of all models that check JSON."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

Visible = Annotated[str, StringConstraints(pattern=r"\S")]
"""Text with at least one visible character."""

Count = Annotated[int, Field(ge=1)]


class Strict(BaseModel):
    """A JSON object that accepts its own fields only, with exactly their types."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)
