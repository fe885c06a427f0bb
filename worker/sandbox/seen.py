"""The files that an inspection has used: while they stay the same, so does its result."""

import os
import stat
from typing import NamedTuple

# Kept, because an observer replaces the functions of `os`.
_stat = os.stat


class Seen(NamedTuple):
    """A path, and what it was before the inspection used it."""

    path: str
    follow: bool
    """Whether a link at the path was followed."""
    listed: bool
    """Whether the names in a directory were read."""
    identity: tuple[int, ...]

    def is_unchanged(self) -> bool:
        return identity(self.path, follow=self.follow, listed=self.listed) == self.identity


def identity(path: str, *, follow: bool, listed: bool = False) -> tuple[int, ...]:
    """Return device, inode, size and the times of the last change (ns); an error's number if there is none.

    The time of the last change of the inode shows a new mode or owner, and cannot be set back. Only a
    directory's names depend on its size and times.
    """
    try:
        found = _stat(path, follow_symlinks=follow)
    except OSError as error:
        return (error.errno or 0,)
    except ValueError:  # no valid path, for example one with a NUL
        return ()
    if stat.S_ISDIR(found.st_mode) and not listed:
        return (found.st_dev, found.st_ino)
    return (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
