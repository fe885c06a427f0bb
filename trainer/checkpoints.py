"""Megatron's distributed checkpoints (torch_dist) and their exports on disk. No torch.

Layout, as Megatron-Bridge 0.6.2 writes it:
    DIR/latest_checkpointed_iteration.txt     the newest iteration in decimal
    DIR/iter_0000020/{.metadata, metadata.json, __0_0.distcp, ..., run_config.yaml, train_state.pt}
    DIR/hf/iter_0000020/                      the Hugging Face directory of an export

`.metadata` is a pickled torch.distributed.checkpoint.metadata.Metadata. Its `storage_data` has the file, the
offset and the length of each piece of a tensor.
"""

import collections
import os
import pickle
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from trainer import bounded_json, path_roots
from trainer.events import SavedFile

# `.metadata` is written last: a directory without it is an unfinished save.
REQUIRED = (".metadata", "metadata.json", "run_config.yaml", "train_state.pt")

# A larger index is not read. The sizes of the files are then not checked.
LARGEST_INDEX_BYTES = 64 << 20
LONGEST_NAME_BYTES = 255  # of a file on Linux


class Incomplete(RuntimeError):
    """The run finished, but the saved checkpoint or export is not complete."""


def iteration_directory(directory: Path, iteration: int) -> Path:
    return directory / f"iter_{iteration:07d}"


def iteration_of(directory: Path) -> int:
    """The iteration of an iter_* directory. Raises ValueError for any other directory."""
    return int(directory.name.removeprefix("iter_"))


def tracked_iteration(directory: Path) -> int | None:
    """The iteration of Bridge's last complete save; None if there is no save. Raises ValueError."""
    try:
        return int((directory / "latest_checkpointed_iteration.txt").read_text())
    except FileNotFoundError:
        return None


def is_complete(directory: Path) -> bool:
    """Whether an iter_* directory has all files that a load needs, and no file is truncated."""
    return fault_of(directory) is None


def fault_of(directory: Path) -> str | None:
    """Return why an iter_* directory cannot be loaded; None if it can. Raises OSError if that is unknown."""
    for name in REQUIRED:
        if not (directory / name).is_file():
            return f"it has no {name}"
    try:
        sizes = minimum_sizes(directory)
        short = [name for name, size in sizes.items() if (directory / name).stat().st_size < size]
    except Damaged as error:
        return str(error)
    except FileNotFoundError as error:
        return f"it has no {Path(error.filename).name}"
    return f"{short[0]} is truncated" if short else None


def iterations(directory: Path) -> list[int]:
    """Iterations in a save directory, complete or not, descending."""
    if not directory.is_dir():
        return []
    found = [path for path in directory.iterdir() if re.fullmatch(r"iter_\d+", path.name)]
    return sorted(map(iteration_of, found), reverse=True)


def latest_complete(directory: Path) -> Path | None:
    """The newest complete iter_* directory: `directory` itself, else one below it; None if there is none."""
    if is_complete(directory):
        return directory
    every = (iteration_directory(directory, iteration) for iteration in iterations(directory))
    return next(filter(is_complete, every), None)


def files_of(directory: Path) -> list[SavedFile]:
    """All files of a checkpoint, as its event lists them."""
    found = [path for path in sorted(directory.rglob("*")) if path.is_file()]
    return [SavedFile(path=str(path.relative_to(directory)), bytes=path.stat().st_size) for path in found]


# -- the index of a checkpoint -----------------------------------------------------------------------


class Damaged(ValueError):
    """The index of a checkpoint cannot be read."""


def minimum_sizes(directory: Path) -> dict[str, int]:
    """Minimum size in bytes of each file of an iter_* directory: the end of its last piece.

    Raises Damaged, FileNotFoundError and OutsideRoots.
    """
    path = directory / ".metadata"
    path_roots.require(path)
    if path.stat().st_size > LARGEST_INDEX_BYTES:
        return {}
    ends: dict[str, int] = {}
    try:
        with path.open("rb") as file:
            pieces = _InertUnpickler(file).load().storage_data.values()
        for name, end in map(_end_of, pieces):
            ends[name] = max(end, ends.get(name, 0))
    except FileNotFoundError:
        raise
    except MemoryError:
        raise Damaged(f"{path} needs more memory than an inspection may use") from None
    except Exception as error:  # corrupt data can make pickle raise any exception
        raise Damaged(f"{path} cannot be read: {type(error).__name__}: {str(error)[:200]}") from error
    if not ends:
        raise Damaged(f"{path} names no files")
    return ends


def _end_of(piece: Any) -> tuple[str, int]:
    """Return file and end of a piece. Raises ValueError: the index of a stranger may hold anything."""
    name, numbers = piece.relative_path, (piece.offset, piece.length)
    if type(name) is not str or not _is_name(name):
        raise ValueError(f"it names {ascii(name)[:100]}, which is no file of the checkpoint")
    if any(type(number) is not int or not 0 <= number < 2**63 for number in numbers):
        raise ValueError(f"it places a piece of {name} at {ascii(numbers)[:100]}")
    return name, sum(numbers)


def _is_name(name: str) -> bool:
    """Whether a text can name a file of this directory: no path, no NUL, no character that is not text."""
    is_plain = name.isprintable() and "/" not in name and name not in ("", ".", "..")
    return is_plain and len(os.fsencode(name)) <= LONGEST_NAME_BYTES


class _InertUnpickler(pickle.Unpickler):
    """Reads a pickle without its classes: no class is imported, and none of their code runs."""

    def find_class(self, module: str, name: str) -> Any:  # noqa: ARG002
        return collections.OrderedDict if name == "OrderedDict" else _Placeholder


class _Placeholder:
    """Stands for any pickled object and has those of its attributes that are read here."""

    __slots__ = ("length", "offset", "relative_path", "storage_data")

    def __init__(self, *arguments: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        if isinstance(state, dict):
            for name in self.__slots__:
                if name in state:
                    setattr(self, name, state[name])


# -- exports ---------------------------------------------------------------------------------------

HF_CONFIG, HF_WEIGHTS, HF_INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"


def export_directory(directory: Path, iteration: int) -> Path:
    """Directory of the export of an iteration, below a save directory."""
    return iteration_directory(directory / "hf", iteration)


def missing_export_files(names: Iterable[str], index: bytes | None) -> set[str]:
    """Config and weight files that are missing in a Hugging Face directory with these files.

    index: content of HF_INDEX, if the weights are in several files. Raises ValueError if it is invalid.
    """
    return ({HF_CONFIG} | _weights(index)) - set(names)


def _weights(index: bytes | None) -> set[str]:
    if index is None:
        return {HF_WEIGHTS}
    try:
        names = bounded_json.parse(index.decode())["weight_map"].values()
    except (LookupError, TypeError, AttributeError) as error:
        raise ValueError(f"{HF_INDEX} does not name the files of the weights") from error
    return {name if isinstance(name, str) else ascii(name)[:100] for name in names}
