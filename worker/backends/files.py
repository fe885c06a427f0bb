"""Files of a job where the service sees them on a local mount."""

from pathlib import Path


class LocalFiles:
    """The Files interface over this machine's own file system."""

    def size(self, path: Path) -> int:
        return path.stat().st_size

    def read(self, path: Path, offset: int, limit: int) -> bytes:
        with path.open("rb") as file:
            file.seek(offset)
            return file.read(limit)

    def names(self, directory: Path) -> list[str]:
        return sorted(entry.name for entry in directory.iterdir())
