"""The files of a cluster, as the engine reads and writes them."""

import errno
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import NamedTuple, Protocol


class BehindLink(FileNotFoundError):
    """A link, which is not followed, leads to the path."""


class FileStat(NamedTuple):
    """Size (bytes) and modification time of a file: if both are equal, the file has not changed."""

    size: int
    modified_ns: int


class OpenFile(Protocol):
    """An open file: it stays the same file, whatever takes its name meanwhile.

    Methods raise BackendUnavailable.
    """

    def stat(self) -> FileStat:
        """Raises FileNotFoundError if the file was removed, where the file system tells."""
        ...

    def read(self, offset: int, limit: int) -> bytes: ...


class Files(Protocol):
    """The cluster's file system, by absolute paths. Reads accept regular files only.

    Methods raise FileNotFoundError, BackendUnavailable, NotReachable. After BackendUnavailable a change
    may have been made nevertheless: the answer can be lost.

    below: a parent directory whose own path only the operator can change. Below it no link is followed:
        a path that leads through one is missing: BehindLink for stat, read and open. Without it only the
        last name must be no link.
    """

    def open(self, path: Path, below: Path | None = None) -> AbstractContextManager[OpenFile]:
        """Open a file, and close it at the end of the block."""
        ...

    def stat(self, path: Path, below: Path | None = None) -> FileStat: ...

    def read(self, path: Path, offset: int, limit: int, below: Path | None = None) -> bytes: ...

    def tree_size(self, path: Path, below: Path) -> int:
        """Return the bytes of all files in a directory. `below`: as for remove_tree."""
        ...

    def remove_tree(self, path: Path, below: Path) -> None:
        """Remove a directory and its content. Links are removed; their targets stay.

        below: a parent directory that belongs to the service and must exist. Below it no link is
            followed, neither on the way to `path` nor inside: a run may have put one anywhere.
        """
        ...

    def sizes(self, paths: Sequence[Path]) -> dict[Path, int]:
        """Return the bytes of each regular file, in one call; other paths are left out."""
        ...

    def write(self, path: Path, content: bytes, mode: int = 0o600) -> None:
        """Write or replace a file atomically: readers see old or new content. Its directory exists."""
        ...

    def create(self, path: Path, content: bytes, mode: int = 0o600) -> bool:
        """Write a file if its path does not exist yet; return False if it does, even as another kind of file.

        The file appears with its complete content. Of several concurrent callers, on any machine, exactly
        one gets True.
        """
        ...

    def make_directory(self, path: Path, mode: int = 0o700) -> None:
        """Make a directory and its missing parents with this mode. An existing directory stays unchanged."""
        ...

    def remove(self, path: Path) -> None:
        """Remove a file or a link; a missing one is no error."""
        ...


def names_below(path: Path, below: Path) -> tuple[str, ...]:
    """Return the names on the way from `below` to `path`. Raises FileNotFoundError if it leads elsewhere."""
    names = path.relative_to(below).parts if path.is_relative_to(below) else ()
    if not names or ".." in names:
        raise FileNotFoundError(errno.ENOENT, f"not below {below}", str(path))
    return names
