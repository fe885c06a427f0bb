"""What a check has to say."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Severity = Literal["error", "warning", "advice", "unverified"]


class Suggestion(BaseModel):
    """A change of one value that answers a finding or a failure."""

    model_config = ConfigDict(populate_by_name=True, serialize_by_alias=True)

    field: str = Field(description="Dotted key of the training config, or resources.NAME.")
    current: Any = Field(alias="from", description="Its value now.")
    to: Any = Field(description="Value to set.")


class Finding(BaseModel):
    """Something that a check has to say about a config."""

    code: str
    severity: Severity
    pointer: str = Field(
        description="JSON pointer: of the trainer into its config, of a plan into the request."
    )
    message: str
    hint: str | None = None
    suggestion: Suggestion | None = Field(default=None, description="A change that answers the finding.")


def finding(
    severity: Severity, code: str, pointer: str, message: str, hint: str, *, change: Suggestion | None = None
) -> Finding:
    return Finding(
        code=code, severity=severity, pointer=pointer, message=message, hint=hint, suggestion=change
    )


def suggest(field: str, current: Any, to: Any) -> Suggestion:
    return Suggestion(field=field, current=current, to=to)
