"""Open files whose paths come from somebody else."""

import os
import stat
from pathlib import Path


class NotRegular(OSError):
    """A path leads to a directory, pipe, socket or device."""

    def __init__(self) -> None:
        super().__init__("it is not a regular file")


def open_regular(path: Path) -> int:
    """Return a descriptor to read from. Raises NotRegular and other OSErrors, and never waits.

    Opening a pipe would wait for its writer, and opening a device may have effects.
    """
    _require_regular(path.stat())
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        _require_regular(os.fstat(descriptor))
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def _require_regular(found: os.stat_result) -> None:
    if not stat.S_ISREG(found.st_mode):
        raise NotRegular
