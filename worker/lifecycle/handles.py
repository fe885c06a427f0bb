"""From the row of an attempt to what a backend is asked about."""

from pathlib import Path

from trainer.run_layout import RunLayout
from worker.backends.interface import Handle
from worker.db.models import Attempt


def layout_of(attempt: Attempt) -> RunLayout:
    """The directory that is stored with an attempt that was submitted."""
    return RunLayout(Path(attempt.directory or ""))


def handle_of(attempt: Attempt) -> Handle:
    return Handle(attempt.external_id or "", attempt.name, Path(attempt.directory or ""))


def restarts_of(attempt: Attempt) -> int:
    """How often the scheduler has restarted the submission of this attempt."""
    return attempt.number - (attempt.submission or attempt.number)
