"""What a check has to say."""

from typing import Literal

from pydantic import BaseModel, Field

from trainer.suggestion import Suggestion, suggest

__all__ = ["LOOKED_AT_THERE", "NOT_SEEN", "Finding", "Severity", "Suggestion", "finding", "suggest"]

# Of files that only the cluster sees.
NOT_SEEN = "lies on the cluster, and is not seen from here"
LOOKED_AT_THERE = "The cluster looks at it before anything is submitted, if it can, and before it trains."

Severity = Literal["error", "warning", "advice", "unverified"]


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
