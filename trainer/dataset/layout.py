"""Find packed shards. The seed's layout is splits/train/*.parquet, splits/valid/, splits/test/.

Like Megatron-Bridge, this accepts a single file, a directory of files and a pattern (`shard-*.parquet`), too.
Then all files are for training.
"""

import errno
import os
import stat
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from glob import has_magic
from pathlib import Path

from trainer import path_roots

SUFFIXES = (".parquet", ".pq")
SPLITS = ("train", "valid", "test")

# These errors mean that the path does not exist. Any other error leaves that open.
ABSENT = {errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.EINVAL}


class MissingPackedData(LookupError):
    """There are no packed shards at the path in the config."""


@dataclass(frozen=True)
class Shards:
    """Files of the packed splits. A missing split is an empty list."""

    train: list[Path]
    valid: list[Path]
    test: list[Path] = field(default_factory=list)
    source: Path = Path()
    """The path that Bridge gets for training: a directory, a file or a pattern."""
    valid_source: Path | None = None
    """The path that Bridge gets for validation; None if there are no such files."""

    @property
    def splits(self) -> dict[str, list[Path]]:
        """Files of each split that has files."""
        named = {name: getattr(self, name) for name in SPLITS}
        return {name: files for name, files in named.items() if files}

    @property
    def directories(self) -> list[Path]:
        """Directories that may hold the packing metadata: that of the files, then those above the splits."""
        found = [self.train[0].parent]
        while found[-1].name in (*SPLITS, "splits"):
            found.append(found[-1].parent)
        return [directory for directory in found if path_roots.is_allowed(directory)]


def find_shards(path: Path, validation: Path | None = None) -> Shards:
    """Find the shards of a dataset.

    path: a directory that holds `splits/`, the `splits` directory, a flat directory, a file or a pattern.
    validation: a flat directory, a file or a pattern, for validation instead of the split `valid`.

    Raises MissingPackedData if there are certainly no shards, OSError if that cannot be determined, and its
    subclass OutsideRoots if a folder or a shard is a link that leads out of the roots.
    """
    shards = _shards(path)
    if validation is None:
        return shards
    return replace(shards, valid=_flat(validation).train, valid_source=validation)


def _shards(path: Path) -> Shards:
    if is_pattern(path) or not _is_directory(path):
        return _flat(path)
    splits = path / "splits" if _is_directory(path / "splits") else path
    if splits == path and not _is_directory(path / "train") and _files(path):
        return _flat(path)
    train, valid, test = (_files(splits / name) for name in SPLITS)
    if not train:
        raise MissingPackedData(f"There are no packed Parquet shards at {splits / 'train'}.")
    return Shards(train, valid, test, splits / "train", splits / "valid" if valid else None)


def is_pattern(path: Path) -> bool:
    """Whether Bridge treats a path as a pattern."""
    return "*" in str(path) or "?" in str(path)


def _flat(source: Path) -> Shards:
    find = _matching if is_pattern(source) else _files if _is_directory(source) else _single
    files = find(source)
    if not files:
        raise MissingPackedData(f"There are no packed Parquet shards at {source}.")
    return Shards(train=files, valid=[], source=source)


def _single(path: Path) -> list[Path]:
    return [path] if path.suffix.lower() in SUFFIXES and _mode(path) is not None else []


def _matching(pattern: Path) -> list[Path]:
    if has_magic(str(pattern.parent)):
        # In a directory name, a pattern could leave the allowed roots and traverse a complete file system.
        raise MissingPackedData(f"A pattern may only be in the name of the files, not in {pattern.parent}.")
    names = (name for name in _names(pattern.parent) if Path(name).suffix.lower() in SUFFIXES)
    return _inside(pattern.parent / name for name in names if fnmatchcase(name, pattern.name))


def _files(directory: Path) -> list[Path]:
    return _inside(directory / name for name in _names(directory) if Path(name).suffix in SUFFIXES)


def _inside(files: Iterable[Path]) -> list[Path]:
    """Return the files. Raises OutsideRoots for a link that leads out of the roots."""
    found = list(files)
    for path in found:
        if path.is_symlink():
            path_roots.require(path)
    return found


def _names(directory: Path) -> list[str]:
    """Sorted names in a directory, without hidden ones; empty if the path is not a directory."""
    if not _is_directory(directory):
        return []
    with os.scandir(directory) as entries:
        return sorted(entry.name for entry in entries if not entry.name.startswith("."))


def _is_directory(path: Path) -> bool:
    mode = _mode(path)
    return mode is not None and stat.S_ISDIR(mode)


def _mode(path: Path) -> int | None:
    """Mode of the file at a path; None if there is no file. Raises OSError if that cannot be determined."""
    try:
        path_roots.require(path)
        return path.stat().st_mode
    except ValueError:  # not a valid path, for example one with a NUL
        return None
    except OSError as error:
        if error.errno in ABSENT:
            return None
        raise
