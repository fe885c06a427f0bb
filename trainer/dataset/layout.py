"""Where packed shards lie. The seed's layout is splits/train/*.parquet, splits/valid/, splits/test/.

As for Megatron-Bridge a single file, a directory of files and a pattern (`shard-*.parquet`) will do, too:
then all of them are for training.
"""

import errno
import os
import stat
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from glob import has_magic
from pathlib import Path

SUFFIXES = (".parquet", ".pq")
SPLITS = ("train", "valid", "test")

# With these errors nothing is there; every other one leaves that open.
ABSENT = {errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.EINVAL}


class MissingPackedData(LookupError):
    """There are no packed shards where the config says that they are."""


@dataclass(frozen=True)
class Shards:
    """Files of the packed splits; a split that is missing is an empty list."""

    train: list[Path]
    valid: list[Path]
    test: list[Path] = field(default_factory=list)
    source: Path = Path()
    """What Bridge is told to train on: a directory, a file or a pattern."""

    @property
    def splits(self) -> dict[str, list[Path]]:
        """The files by split, those that are there."""
        named = {name: getattr(self, name) for name in SPLITS}
        return {name: files for name, files in named.items() if files}

    @property
    def directories(self) -> list[Path]:
        """Where what was noted about the packing may lie: beside the files, or above the splits."""
        found = [self.train[0].parent]
        while found[-1].name in (*SPLITS, "splits"):
            found.append(found[-1].parent)
        return found


def find_shards(path: Path) -> Shards:
    """The shards of a directory that holds `splits/`, or that is it; of a flat directory, a file, a pattern.

    Raises MissingPackedData where there certainly are none, OSError where that cannot be seen.
    """
    if is_pattern(path):
        return _flat(_matching(path), path)
    if not _is_directory(path):
        return _flat(_single(path), path)
    splits = path / "splits" if _is_directory(path / "splits") else path
    if splits == path and not _is_directory(path / "train") and (files := _files(path)):
        return _flat(files, path)
    train, valid, test = (_files(splits / name) for name in SPLITS)
    if not train:
        raise MissingPackedData(f"There are no packed Parquet shards at {splits / 'train'}.")
    return Shards(train, valid, test, source=splits / "train")


def is_pattern(path: Path) -> bool:
    """Whether Bridge takes a path for a pattern."""
    return "*" in str(path) or "?" in str(path)


def _flat(files: list[Path], source: Path) -> Shards:
    if not files:
        raise MissingPackedData(f"There are no packed Parquet shards at {source}.")
    return Shards(train=files, valid=[], source=source)


def _single(path: Path) -> list[Path]:
    return [path] if path.suffix.lower() in SUFFIXES and _mode(path) is not None else []


def _matching(pattern: Path) -> list[Path]:
    if has_magic(str(pattern.parent)):
        # Elsewhere it could lead around the allowed roots, and through a whole file system.
        raise MissingPackedData(f"A pattern may only stand in the name of the files: {pattern}.")
    names = (name for name in _names(pattern.parent) if Path(name).suffix.lower() in SUFFIXES)
    return [pattern.parent / name for name in names if fnmatchcase(name, pattern.name)]


def _files(directory: Path) -> list[Path]:
    return [directory / name for name in _names(directory) if Path(name).suffix in SUFFIXES]


def _names(directory: Path) -> list[str]:
    """Names of what lies in a directory, sorted; hidden ones are no data. Of what is none: nothing."""
    if not _is_directory(directory):
        return []
    with os.scandir(directory) as entries:
        return sorted(entry.name for entry in entries if not entry.name.startswith("."))


def _is_directory(path: Path) -> bool:
    mode = _mode(path)
    return mode is not None and stat.S_ISDIR(mode)


def _mode(path: Path) -> int | None:
    """Of what lies there; None where nothing does. Raises OSError where that cannot be seen."""
    try:
        return path.stat().st_mode
    except ValueError:  # no path at all, such as one with a NUL
        return None
    except OSError as error:
        if error.errno in ABSENT:
            return None
        raise
