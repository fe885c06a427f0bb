"""A suggested change of one config value. No torch."""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field


class Suggestion(BaseModel):
    """A change of one value that may resolve a finding or a failure."""

    model_config = ConfigDict(populate_by_name=True, serialize_by_alias=True)

    field: str = Field(description="Dotted key of the training config, or resources.NAME.")
    current: Any = Field(alias="from", description="Current value.")
    to: Any = Field(description="Value to set.")


def suggest(field: str, current: Any, to: Any) -> Suggestion:
    return Suggestion(field=field, current=current, to=to)
