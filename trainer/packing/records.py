"""Read the records of a file of JSON lines, which are parsed later."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from trainer.packing.bad_records import Place


@dataclass(frozen=True)
class ChatLine:
    """A record that is not parsed yet."""

    place: Place
    data: bytes


class Lines:
    """The lines of a file that are not empty."""

    def __init__(self, path: Path) -> None:
        self._path, self._size, self._read = path, path.stat().st_size, 0

    def __iter__(self) -> Iterator[ChatLine]:
        with self._path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                self._read += len(line)
                if line.strip():
                    yield ChatLine(Place(str(self._path), number), line)

    def share_read(self) -> float:
        """Return the share of the file that was read."""
        return self._read / max(1, self._size)
