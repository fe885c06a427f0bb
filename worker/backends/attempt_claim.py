"""The claim of an attempt: the first writer owns it, either the starting run or the abandoning service."""

from trainer.run_layout import RunLayout
from worker.backends.access.files import Files

ABANDONED = b"abandoned\n"


def abandon(layout: RunLayout, files: Files) -> bool:
    """Claim the attempt so that no run starts in this directory; return False if a run has started."""
    # Missing for a run that the scheduler should have restarted and no longer knows.
    files.make_directory(layout.directory)
    return files.create(layout.claim, ABANDONED) or files.read(layout.claim, 0, len(ABANDONED)) == ABANDONED
