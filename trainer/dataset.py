"""Packed data on disk, in the seed's layout: splits/train/*.parquet, splits/valid/*.parquet. No torch."""

from dataclasses import dataclass
from pathlib import Path

SUFFIXES = (".parquet", ".pq")


class MissingPackedData(LookupError):
    """There are no packed shards where the config says that they are."""


@dataclass(frozen=True)
class Shards:
    """Files of the packed splits; a missing validation split is an empty list."""

    train: list[Path]
    valid: list[Path]


def find_shards(directory: Path) -> Shards:
    """The shards of a directory that holds `splits/`, or that is it. Raises MissingPackedData."""
    splits = directory / "splits" if (directory / "splits").is_dir() else directory
    shards = Shards(train=_files(splits / "train"), valid=_files(splits / "valid"))
    if not shards.train:
        raise MissingPackedData(f"There are no packed Parquet shards at {splits / 'train'}.")
    return shards


def _files(directory: Path) -> list[Path]:
    if not directory.is_dir():
        return []
    return sorted(path for path in directory.iterdir() if path.suffix in SUFFIXES)
