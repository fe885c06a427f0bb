"""The events of a run, declared once: the trainer writes them, the service reads them. No torch.

The format is docs/job-directory.md. A line without a version is of version 1. Readers ignore unknown
fields.
"""

import math
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import AwareDatetime, BaseModel, BeforeValidator, ConfigDict, Field

VERSION = 1
PREFIX = "SFT_EVENT "
"""Before an event that is printed to stdout."""
PART_PREFIX = "SFT_EVENT_PART "
"""Before a part of an event that is too long for one write."""
# What is written to a pipe in one write is at most PIPE_BUF, 4,096 bytes on Linux.
PART_CHARACTERS = 3800


def _finite(value: Any) -> Any:
    """JSON has no NaN and no infinity: null says that there is no such number."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _unicode(value: Any) -> Any:
    """Texts of Linux may hold lone surrogates, which are no Unicode."""
    return value.encode(errors="replace").decode() if isinstance(value, str) else value


def _now() -> datetime:
    return datetime.now(UTC)


Count = Annotated[int, Field(strict=True, ge=0, lt=2**31)]
Bytes = Annotated[int, Field(strict=True, ge=0, lt=2**63)]
Text = Annotated[str, BeforeValidator(_unicode)]
Number = Annotated[float | None, BeforeValidator(_finite)]


class RunEvent(BaseModel):
    """What every event has."""

    model_config = ConfigDict(extra="ignore")

    event: str
    version: Count = VERSION
    seq: Count = 0
    """0, 1, 2 ... for each writing rank: tells a line that is seen twice."""
    rank: Count = 0
    """Who wrote it. The reporter is the last rank: it has the losses."""
    at: AwareDatetime = Field(default_factory=_now)
    """UTC."""


ENVELOPE = set(RunEvent.model_fields)
"""Fields that the writer sets."""


class Started(RunEvent):
    """The run begins its first step; an export has only the first three fields."""

    event: Literal["started"] = "started"
    start_step: Count
    total_steps: Count
    world_size: Count | None = None
    global_batch_size: Count | None = None
    seq_length: Count | None = None
    parameters: Bytes | None = None
    """Of the complete model."""


class StepDone(RunEvent):
    """A training step, with the figures that Megatron-Bridge has logged."""

    event: Literal["step"] = "step"
    step: Count
    loss: Number = None
    learning_rate: Number = None
    grad_norm: Number = None
    step_time_seconds: Number = None
    tokens_per_second_per_gpu: Number = None
    tflops_per_gpu: Number = None
    peak_memory_gib: Number = None
    """What torch has reserved of the reporter's GPU so far."""
    consumed_samples: Bytes | None = None


class Validated(RunEvent):
    """A validation; step 0 is before the first update."""

    event: Literal["validation"] = "validation"
    step: Count
    loss: Number = None


class SavedFile(BaseModel):
    """A file of a checkpoint."""

    path: Text
    """Relative to the checkpoint's directory."""
    bytes: Bytes


class CheckpointSaved(RunEvent):
    """A checkpoint that is complete on disk."""

    event: Literal["checkpoint"] = "checkpoint"
    iteration: Count
    path: Text
    format: Literal["torch_dist", "huggingface"] = "torch_dist"
    bytes: Bytes
    files: list[SavedFile]


class Stopping(RunEvent):
    """The run has seen its stop file, and saves."""

    event: Literal["stopping"] = "stopping"
    step: Count
    reason: Text = ""


class Finished(RunEvent):
    """All steps are done."""

    event: Literal["finished"] = "finished"
    step: Count
    iteration: Count | None = None
    """Of the final checkpoint."""


class Stopped(RunEvent):
    """The run ended early because it was asked to."""

    event: Literal["stopped"] = "stopped"
    step: Count
    iteration: Count | None = None
    """Of the saved checkpoint."""
    reason: Text = ""


class Failed(RunEvent):
    """The run failed."""

    event: Literal["failed"] = "failed"
    code: Text = "unknown"
    message: Text = "The trainer failed."
    traceback: Text | None = None
    """Its tail; None where the trainer rejected its config, or lost the process that writes checkpoints."""


Progress = Started | StepDone | Validated | CheckpointSaved | Stopping
Ending = Finished | Stopped | Failed
AnyEvent = Progress | Ending
