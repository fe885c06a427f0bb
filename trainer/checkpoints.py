"""Megatron's distributed checkpoints (torch_dist) on disk, and exports of them. No torch.

Layout, as Megatron-Bridge 0.6.2 writes it:
    DIR/latest_checkpointed_iteration.txt     the newest iteration in decimal
    DIR/iter_0000020/{.metadata, metadata.json, __0_0.distcp, ..., run_config.yaml, train_state.pt}
    DIR/hf/iter_0000020/                      a Hugging Face directory, of an export

`.metadata` is a pickled torch.distributed.checkpoint.metadata.Metadata; its `storage_data` says for each
piece of a tensor in which file it lies, from which byte on, and how long it is.
"""

import collections
import json
import pickle
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from trainer.events import SavedFile

# `.metadata` is written last: a directory without it is a save that did not end.
REQUIRED = (".metadata", "metadata.json", "run_config.yaml", "train_state.pt")

# An index that is larger is not read: sizes of the files are then not held against it.
LARGEST_INDEX_BYTES = 64 << 20


class Incomplete(RuntimeError):
    """All was done, and what was saved is not whole."""


def iteration_directory(directory: Path, iteration: int) -> Path:
    return directory / f"iter_{iteration:07d}"


def iteration_of(directory: Path) -> int:
    """The iteration of an iter_* directory. Raises ValueError for any other."""
    return int(directory.name.removeprefix("iter_"))


def tracked_iteration(directory: Path) -> int | None:
    """The iteration that Bridge saved last, whole; None where it has saved none there. Raises ValueError."""
    try:
        return int((directory / "latest_checkpointed_iteration.txt").read_text())
    except FileNotFoundError:
        return None


def is_complete(directory: Path) -> bool:
    """Whether one iter_* directory holds everything that a load needs, and no file of it is cut off."""
    if not all((directory / name).is_file() for name in REQUIRED):
        return False
    try:
        fewest = fewest_bytes(directory)
        return all((directory / name).stat().st_size >= size for name, size in fewest.items())
    except (Damaged, FileNotFoundError):
        return False


def iterations(directory: Path) -> list[int]:
    """Iterations of a save directory, whole or not, descending."""
    if not directory.is_dir():
        return []
    found = [path for path in directory.iterdir() if re.fullmatch(r"iter_\d+", path.name)]
    return sorted(map(iteration_of, found), reverse=True)


def latest_complete(directory: Path) -> Path | None:
    """The newest complete iter_* directory; `directory` itself where it is one; None where there is none."""
    if is_complete(directory):
        return directory
    every = (iteration_directory(directory, iteration) for iteration in iterations(directory))
    return next(filter(is_complete, every), None)


def files_of(directory: Path) -> list[SavedFile]:
    """Every file of a checkpoint, as its event lists them: path relative to the directory, bytes."""
    found = [path for path in sorted(directory.rglob("*")) if path.is_file()]
    return [SavedFile(path=str(path.relative_to(directory)), bytes=path.stat().st_size) for path in found]


# -- the index of a checkpoint -----------------------------------------------------------------------


class Damaged(ValueError):
    """The index of a checkpoint cannot be read."""


def fewest_bytes(directory: Path) -> dict[str, int]:
    """Files of an iter_* directory, and the bytes that each has to have at least: where its last piece ends.

    Raises Damaged, and FileNotFoundError.
    """
    path = directory / ".metadata"
    if path.stat().st_size > LARGEST_INDEX_BYTES:
        return {}
    ends: dict[str, int] = {}
    try:
        with path.open("rb") as file:
            pieces = _Plain(file).load().storage_data.values()
        for piece in pieces:
            ends[piece.relative_path] = max(piece.offset + piece.length, ends.get(piece.relative_path, 0))
    except FileNotFoundError:
        raise
    except Exception as error:  # whatever garbage makes of pickle's machine
        raise Damaged(f"{path}: {error}") from error
    if not ends or any(Path(name).name != name for name in ends):
        raise Damaged(f"{path} names no files, or some elsewhere")
    return ends


class _Plain(pickle.Unpickler):
    """Reads a pickle without the classes that it names: none is imported, and nothing of theirs runs."""

    def find_class(self, module: str, name: str) -> Any:  # noqa: ARG002
        return collections.OrderedDict if name == "OrderedDict" else _Anything


class _Anything:
    """Whatever was pickled: its attributes, if it had any."""

    def __init__(self, *arguments: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        if isinstance(state, dict):
            vars(self).update(state)


# -- exports ---------------------------------------------------------------------------------------

HF_CONFIG, HF_WEIGHTS, HF_INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"


def export_directory(directory: Path, iteration: int) -> Path:
    """Where the export of an iteration goes, below a save directory."""
    return iteration_directory(directory / "hf", iteration)


def missing_of_export(names: Iterable[str], index: bytes | None) -> set[str]:
    """What a Hugging Face directory of these files lacks: config, or weights.

    index: content of HF_INDEX, where weights are in several files. Raises ValueError where it is none.
    """
    return ({HF_CONFIG} | _weights(index)) - set(names)


def _weights(index: bytes | None) -> set[str]:
    if index is None:
        return {HF_WEIGHTS}
    try:
        return {str(name) for name in json.loads(index)["weight_map"].values()}
    except (LookupError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{HF_INDEX} does not say which files hold the weights") from error
