"""Who has an attempt: the first to write its claim, the run as it begins or the service that gives it up."""

from trainer.run_layout import RunLayout
from worker.backends.access.files import Files

ABANDONED = b"abandoned\n"


def abandon(layout: RunLayout, files: Files) -> bool:
    """Make sure that a run never begins in this directory; False where it has begun."""
    files.make_directory(layout.directory)  # of a run that the scheduler was to restart, and forgot
    return files.create(layout.claim, ABANDONED) or files.read(layout.claim, 0, len(ABANDONED)) == ABANDONED
