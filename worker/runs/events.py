"""The events of a run, as the service takes them in. The format: docs/job-directory.md.

A run is not to be trusted: its lines may be broken, huge or made up. What passes here fits the database.
"""

import json
import math
import os
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, AwareDatetime, BaseModel, BeforeValidator, Field, TypeAdapter

from worker.clock import as_utc

# Longer texts are cut; the log has them whole.
MAX_CHARACTERS = 10_000


def _storable(text: str) -> str:
    """Postgres has no place for NUL and lone surrogates."""
    return text[:MAX_CHARACTERS].replace("\0", "\ufffd").encode(errors="replace").decode()


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


Text = Annotated[str, AfterValidator(_storable)]
Count = Annotated[int, Field(strict=True, ge=0, lt=2**31)]
Bytes = Annotated[int, Field(strict=True, ge=0, lt=2**63)]
Number = Annotated[float | None, BeforeValidator(_finite)]


class RunEvent(BaseModel):
    rank: Count = 0
    at: Annotated[AwareDatetime, AfterValidator(as_utc)]


class Started(RunEvent):
    event: Literal["started"]
    start_step: Count
    total_steps: Count
    parameters: Bytes | None = None


class StepDone(RunEvent):
    event: Literal["step"]
    step: Count
    loss: Number = None
    learning_rate: Number = None
    grad_norm: Number = None
    step_time_seconds: Number = None
    tokens_per_second_per_gpu: Number = None
    tflops_per_gpu: Number = None
    consumed_samples: Bytes | None = None


class Validated(RunEvent):
    event: Literal["validation"]
    step: Count
    loss: Number = None


LONGEST_NAME_BYTES = 255  # of a file on Linux


def _plain_path(path: str) -> str:
    """A relative path that leads nowhere else. It becomes a member of archives and a name in URLs."""
    parts = path.split("/")
    if not path.isprintable() or any(part in ("", ".", "..") for part in parts):
        raise ValueError("is not the relative path of a file")
    if any(len(os.fsencode(part)) > LONGEST_NAME_BYTES for part in parts):
        raise ValueError("has a name that is too long for a file")
    return path


class SavedFile(BaseModel):
    path: Annotated[Text, AfterValidator(_plain_path)]
    bytes: Bytes


class CheckpointSaved(RunEvent):
    event: Literal["checkpoint"]
    iteration: Count
    path: Text
    format: Literal["torch_dist", "huggingface"] = "torch_dist"
    bytes: Bytes
    files: list[SavedFile]


class Stopping(RunEvent):
    event: Literal["stopping"]
    step: Count
    reason: Text = ""


class Finished(RunEvent):
    event: Literal["finished"]
    step: Count
    iteration: Count | None = None


class Stopped(RunEvent):
    event: Literal["stopped"]
    step: Count
    iteration: Count | None = None
    reason: Text = ""


class Failed(RunEvent):
    event: Literal["failed"]
    code: Text = "unknown"
    message: Text = "The trainer failed."
    traceback: Text | None = None


Progressing = Started | StepDone | Validated | CheckpointSaved | Stopping
Ending = Finished | Stopped | Failed
AnyEvent = Progressing | Ending

_ANY: TypeAdapter[AnyEvent] = TypeAdapter(Annotated[AnyEvent, Field(discriminator="event")])
_ENDING: TypeAdapter[Ending] = TypeAdapter(Annotated[Ending, Field(discriminator="event")])


def read_event(line: bytes) -> AnyEvent:
    """The event of a line. Raises ValueError where it is none."""
    return _ANY.validate_python(_json(line))


def read_ending(text: bytes) -> Ending:
    """The event of an end marker. Raises ValueError where it is none."""
    return _ENDING.validate_python(_json(text))


def _json(text: bytes) -> Any:
    try:
        return json.loads(text.decode(errors="replace"))
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
