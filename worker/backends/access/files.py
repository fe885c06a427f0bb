"""The files of a cluster, as the engine reads and writes them."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Protocol


class FileStat(NamedTuple):
    """What tells whether a file has changed."""

    size: int
    modified_ns: int


class Files(Protocol):
    """The cluster's file system, by absolute paths. Where files are read only regular ones count.

    Raises FileNotFoundError, BackendUnavailable, NotReachable. What was to be changed may have changed
    nevertheless where BackendUnavailable is raised: an answer can be lost.
    """

    def stat(self, path: Path) -> FileStat: ...

    def read(self, path: Path, offset: int, limit: int) -> bytes: ...

    def resolve(self, path: Path) -> Path:
        """The path of the same thing that has no link in it."""
        ...

    def tree_size(self, path: Path, below: Path) -> int:
        """Bytes of all files in a directory. `below`: as for remove_tree."""
        ...

    def remove_tree(self, path: Path, below: Path) -> None:
        """Remove a directory and all that is in it; links go, what they point at stays.

        below: the directory above it that is the service's own, and has to be there. From it on, down
            to `path` and beyond, no link is followed: a run may have put one anywhere.
        """
        ...

    def sizes(self, paths: Sequence[Path]) -> dict[Path, int]:
        """Bytes of those that are regular files, in one look; the others are left out."""
        ...

    def write(self, path: Path, content: bytes, mode: int = 0o600) -> None:
        """Write a file, or replace it: readers see the old content or the new one. Its directory exists."""
        ...

    def create(self, path: Path, content: bytes, mode: int = 0o600) -> bool:
        """Write a file whose name nobody has; False where it is taken, by whatever.

        The name appears with its whole content, and of several that try at once, on any machine, one
        is told True.
        """
        ...

    def make_directory(self, path: Path, mode: int = 0o700) -> None:
        """Make a directory, and those above it that are missing, with this mode. One that exists stays."""
        ...

    def remove(self, path: Path) -> None:
        """Remove a file or a link; what is missing already is no error."""
        ...
