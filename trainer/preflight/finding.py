"""The result of a check."""

from typing import Literal

from pydantic import BaseModel, Field

from trainer.suggestion import Suggestion, suggest

__all__ = ["INSPECTED_THERE", "ON_CLUSTER_ONLY", "Finding", "Severity", "Suggestion", "finding", "suggest"]

# For files that only the cluster can read.
ON_CLUSTER_ONLY = "is on the cluster, and the service cannot read it"
INSPECTED_THERE = "The cluster inspects it before submission if it can, and always before training."

Severity = Literal["error", "warning", "advice", "unverified"]


class Finding(BaseModel):
    """What a check found in a config."""

    code: str
    severity: Severity
    pointer: str = Field(
        description="JSON pointer: into the config for the trainer, into the request for a plan."
    )
    message: str
    hint: str | None = None
    suggestion: Suggestion | None = Field(default=None, description="A change that resolves the finding.")


def finding(
    severity: Severity, code: str, pointer: str, message: str, hint: str, *, change: Suggestion | None = None
) -> Finding:
    return Finding(
        code=code, severity=severity, pointer=pointer, message=message, hint=hint, suggestion=change
    )
