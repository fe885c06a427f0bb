"""Megatron's distributed checkpoints (torch_dist) and their exports on disk. No torch.

Layout, as Megatron-Bridge 0.6.2 writes it:
    DIR/latest_checkpointed_iteration.txt     the newest iteration in decimal
    DIR/iter_0000020/{.metadata, metadata.json, __0_0.distcp, ..., run_config.yaml, train_state.pt}
    DIR/hf/iter_0000020/                      the Hugging Face directory of an export
"""

import re
from collections.abc import Iterable
from pathlib import Path

from trainer import bounded_json, path_roots
from trainer.checkpoint_safety.index import read_pieces
from trainer.checkpoint_safety.pickles import Hostile
from trainer.events import SavedFile
from trainer.quoting import shown

# `.metadata` is written last: a directory without it is an unfinished save.
REQUIRED = (".metadata", "metadata.json", "run_config.yaml", "train_state.pt")

# A larger index is not read. The sizes of the files are then not checked.
MAX_INDEX_BYTES = 128 << 20


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
    if path.stat().st_size > MAX_INDEX_BYTES:
        return {}
    ends: dict[str, int] = {}
    try:
        for piece in read_pieces(path.read_bytes()):
            ends[piece.file] = max(piece.offset + piece.length, ends.get(piece.file, 0))
    except Hostile as error:
        raise Damaged(f"{path} cannot be read: it {error}") from error
    if not ends:
        raise Damaged(f"{path} names no files")
    return ends


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
    return {name if isinstance(name, str) else shown(name) for name in names}
