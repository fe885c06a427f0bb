"""What a child in bubblewrap sees of this machine: all files, read-only, without the service's own."""

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class ChildView:
    """Equal views are the same for a child."""

    hidden: tuple[str, ...] = ()
    """Directories in whose place there is an empty one."""
    shown: tuple[tuple[str, int, int], ...] = ()
    """Directories and files in them that are there nevertheless; device and inode of each."""
    links: tuple[tuple[str, str], ...] = ()
    """Links in them that are there nevertheless, and their targets."""

    def hides(self, path: str) -> bool:
        """Return whether what a child sees at this path is not what others see there."""
        shown = (one for one, *_ in self.shown)
        return is_in(path, self.hidden) and not is_in(path, shown)


def is_in(path: str, directories: Iterable[str]) -> bool:
    return any(path == one or path.startswith(f"{one}/") for one in directories)
