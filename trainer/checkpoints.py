"""Megatron's distributed checkpoints (torch_dist) on disk, and exports of them. No torch.

Layout, as Megatron-Bridge 0.6.2 writes it:
    DIR/latest_checkpointed_iteration.txt     the newest iteration in decimal
    DIR/iter_0000020/{.metadata, metadata.json, __0_0.distcp, ..., run_config.yaml, train_state.pt}
    DIR/hf/iter_0000020/                      a Hugging Face directory, of an export
"""

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

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


def files_of(directory: Path) -> list[dict[str, Any]]:
    """Every file of a checkpoint, as its event lists them: path relative to the directory, bytes."""
    found = [path for path in sorted(directory.rglob("*")) if path.is_file()]
    return [{"path": str(path.relative_to(directory)), "bytes": path.stat().st_size} for path in found]


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
