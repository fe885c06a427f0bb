"""Who has an attempt: the first to write its claim, the run as it begins or the service that gives it up."""

from pathlib import Path

from worker.backends.access.files import Files
from worker.run_files import CLAIM

ABANDONED = b"abandoned\n"


def abandon(directory: Path, files: Files) -> bool:
    """Make sure that a run never begins in this directory; False where it has begun."""
    files.make_directory(directory)  # of a run that the scheduler was to begin again, and forgot
    claim = directory / CLAIM
    return files.create(claim, ABANDONED) or files.read(claim, 0, len(ABANDONED)) == ABANDONED
