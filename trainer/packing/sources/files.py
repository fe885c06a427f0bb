"""Find the files of a path: a file, a directory or a pattern. The order is that of the sorted names."""

import os
import stat
from collections.abc import Iterator
from fnmatch import fnmatchcase
from glob import has_magic
from itertools import islice
from pathlib import Path

from trainer import path_roots
from trainer.packing.sources.source import BadSource, as_bad_source
from trainer.quoting import printable

PARQUET = ".parquet"
TEXTS = (".jsonl", ".json")
CODECS = {".gz": "gzip", ".zst": "zstd"}
ENDINGS = (*(text + end for text in TEXTS for end in ("", *CODECS)), PARQUET)
MAX_FILES = 100_000
MAX_DEPTH = 32
ANY_DEPTH = "**"


def files_of(path: Path) -> list[Path]:
    """Return the files of a path, at least one. Raises BadSource."""
    name = printable(path)
    with as_bad_source(name):
        found = list(islice(_files(path), MAX_FILES + 1))
        if not found:
            raise BadSource(f"{name} has no files to read. Read are {', '.join(ENDINGS)}; not hidden files.")
        if len(found) > MAX_FILES:
            raise BadSource(f"{name} has more than {MAX_FILES} files. Merge them into larger ones.")
        for file in found:
            _require_regular(file)
        return found


def has_known_ending(path: Path) -> bool:
    return path.name.lower().endswith(ENDINGS)


def _files(path: Path) -> Iterator[Path]:
    path_roots.require(path)
    if not path.exists() and has_magic(str(path)):
        return _matching(path)
    if path.is_dir():
        return _below(path)
    path.stat()  # raises what is wrong with a path that does not exist
    if not has_known_ending(path):
        raise BadSource(f"{printable(path)} has an unknown ending. Use one of {', '.join(ENDINGS)}.")
    return iter([path])


def _matching(pattern: Path) -> Iterator[Path]:
    """Yield files of DIR/PATTERN, or of DIR and the directories below for DIR/**/PATTERN and DIR/**."""
    directory, name = pattern.parent, pattern.name
    if name == ANY_DEPTH:
        directory, name = pattern, "*"
    is_deep = directory.name == ANY_DEPTH
    directory = directory.parent if is_deep else directory
    if has_magic(str(directory)):
        # Elsewhere in a path, a pattern could traverse a complete file system.
        raise BadSource(
            f"{printable(pattern)}: a pattern may be in the name of the files, and ** directly before it, "
            "but not in other directories. Name several sources instead."
        )
    found = _below(directory) if is_deep else _directly_in(directory)
    return (path for path in found if fnmatchcase(path.name, name))


def _directly_in(directory: Path) -> Iterator[Path]:
    return (path for path in _entries(directory) if has_known_ending(path) and not path.is_dir())


def _below(directory: Path, above: tuple[tuple[int, int], ...] = ()) -> Iterator[Path]:
    """Yield the files of a directory and of those below, through links, too."""
    status = directory.stat()
    identity = (status.st_dev, status.st_ino)
    if identity in above:
        raise BadSource(f"{printable(directory)} is a link to a directory above it. Remove the link.")
    if len(above) == MAX_DEPTH:
        raise BadSource(
            f"{printable(directory)} is over {MAX_DEPTH} levels deep. Name the lower directories."
        )
    for path in _entries(directory):
        if path.is_dir():
            yield from _below(path, (*above, identity))
        elif has_known_ending(path):
            yield path


def _entries(directory: Path) -> list[Path]:
    """Return what is in a directory, sorted, without hidden names."""
    path_roots.require(directory)
    with os.scandir(directory) as entries:
        names = sorted(entry.name for entry in entries if not entry.name.startswith("."))
    return [directory / name for name in names]


def _require_regular(path: Path) -> None:
    with as_bad_source(printable(path)):
        path_roots.require(path)
        if not stat.S_ISREG(path.stat().st_mode):
            raise BadSource(f"{printable(path)} is not a regular file. Name a file or a directory.")
