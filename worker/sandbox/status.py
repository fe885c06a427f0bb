"""Whether children see less than the service, and whether they start, for the operator."""

import sys
from functools import lru_cache

from worker.sandbox import bubblewrap, mounts

_failures: list[str] = []
"""Why the last child did not start; empty if it did."""


@lru_cache
def obstacle() -> str | None:
    """Return why children see what the service sees; None if they do not. Probed once per process."""
    command = [sys.executable, "-c", "import trainer, worker.sandbox"]
    return bubblewrap.obstacle(*mounts.arguments(mounts.view_of(())), "--", *command)


def note_start(failure: str | None = None) -> None:
    """Note that a child has started, or why it has not."""
    _failures[:] = [failure] if failure else []


def warnings() -> list[str]:
    """Return what an operator should know about the children of this process."""
    found = [f"files that requests name are not inspected: {why}. The log says more." for why in _failures]
    if why := obstacle():
        found.append(f"processes that inspect files are not isolated: {why}. {bubblewrap.HINT}")
    return found
