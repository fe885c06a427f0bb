"""Megatron's distributed checkpoints (torch_dist) on disk. No torch.

Layout, as Megatron-Bridge 0.6.2 writes it:
    DIR/latest_checkpointed_iteration.txt     the newest iteration in decimal
    DIR/iter_0000020/{.metadata, metadata.json, __0_0.distcp, ..., run_config.yaml, train_state.pt}
"""

import re
from pathlib import Path

# `.metadata` is written last: a directory without it is a save that did not end.
REQUIRED = (".metadata", "metadata.json", "run_config.yaml", "train_state.pt")


def iteration_directory(directory: Path, iteration: int) -> Path:
    return directory / f"iter_{iteration:07d}"


def iteration_of(directory: Path) -> int:
    """The iteration of an iter_* directory. Raises ValueError for any other."""
    return int(directory.name.removeprefix("iter_"))


def is_complete(directory: Path) -> bool:
    """Whether one iter_* directory holds everything that a load needs."""
    return all((directory / name).is_file() for name in REQUIRED) and any(directory.glob("*.distcp"))


def iterations(directory: Path) -> list[int]:
    """Iterations of a save directory that are complete, ascending."""
    if not directory.is_dir():
        return []
    found = [path for path in directory.iterdir() if re.fullmatch(r"iter_\d+", path.name)]
    return sorted(iteration_of(path) for path in found if is_complete(path))


def latest_complete(directory: Path) -> Path | None:
    """The newest complete iter_* directory; `directory` itself where it is one; None where there is none."""
    if is_complete(directory):
        return directory
    found = iterations(directory)
    return iteration_directory(directory, found[-1]) if found else None
