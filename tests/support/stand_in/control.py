"""What a run of the stand-in does: named by a tag of the job's config, which every backend carries."""

from enum import StrEnum
from pathlib import Path
from typing import Any

Body = dict[str, Any]

# Bridge takes any tag here; only the stand-in reads this one.
TAGS, TAG = "mlflow_tags", "stand_in"


class Mode(StrEnum):
    """All modes of a training run. An export takes the mode from the file `mode` in its checkpoint."""

    TRAIN = "train"
    """Train, save, finish. This is the default."""
    HOLD = "hold"
    """Train until the run is stopped or killed."""
    WAIT = "wait"
    """Train until a file `go` is in the run directory, then finish."""
    TALK = "talk"
    """As WAIT; meanwhile all ranks print lines."""
    FAIL = "fail"
    """Write a failed event."""
    OOM = "oom"
    """Rank 1 runs out of GPU memory unless TP is 2; rank 0 sees the lost peer, and reports first."""
    DIE = "die"
    """Exit without an event."""
    INCOMPLETE = "incomplete"
    """Finish, but a file of the last checkpoint is shorter than reported."""
    HEADLESS = "headless"
    """As INCOMPLETE, of an export: its checkpoint has no config.json."""
    FORGE = "forge"
    """Report files of others, and leave links to them."""


def override(mode: str) -> str:
    """The override that sets a job's mode. Raises ValueError for an unknown mode."""
    return f"logger.{TAGS}.{TAG}={Mode(mode)}"


def with_mode(body: Body, mode: str, **more: Any) -> Body:
    """A copy of a job's body whose runs have the mode. more: further fields of the body."""
    return {**body, "overrides": [*body["overrides"], override(mode)], **more}


def section(mode: str) -> dict[str, Any]:
    """The section of a run's config that sets the mode."""
    return {"logger": {TAGS: {TAG: Mode(mode).value}}}


def mode_of(config: dict[str, Any]) -> Mode:
    """The mode that a run's config sets."""
    tags = config.get("logger", {}).get(TAGS) or {}
    return Mode(tags.get(TAG, Mode.TRAIN))


def starts_of(job: Path) -> list[str]:
    """The numbers of the started attempts of a job with this directory, one for each start."""
    found = sorted(job.glob("attempts/*/starts"), key=lambda path: int(path.parent.name))
    return [number for path in found for number in path.read_text().split()]
