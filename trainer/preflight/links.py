"""Reject models and checkpoints with links that lead out of the roots (trainer/path_roots.py)."""

import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from trainer import path_roots
from trainer.config.training_config import TrainingConfig, is_local
from trainer.preflight.finding import Finding, finding
from trainer.quoting import printable

HINT = "Copy the files to a path that the cluster allows, or ask its operator to add their path to `roots`."
# Files of a checkpoint are in a directory for each iteration.
DEPTH = 2


def check(config: TrainingConfig) -> Iterator[Finding]:
    """Check the model and the checkpoints that a run reads. The data are checked when they are found."""
    model, load = config.hf_model_path, config.checkpoint.get("load")
    yield from check_paths({
        "/hf_model_path": model if model and is_local(model) else None,
        "/checkpoint_megatron": config.checkpoint_megatron,
        "/checkpoint/load": load if isinstance(load, str) else None,
        "/export/checkpoint": config.export.checkpoint if config.export else None,
    }.items())  # fmt: skip


def check_paths(named: Iterable[tuple[str, str | None]]) -> Iterator[Finding]:
    """Check directories by the pointers that name them: a finding for the first link of each."""
    for where, path in named:
        if path and (found := next(_leaving(Path(path), DEPTH), None)):
            yield outside(where, found)


def outside(where: str, path: Path | str) -> Finding:
    """Return the finding about a path that leads out of the roots."""
    message = (
        f"{printable(path)} is, or lies behind, a link that leads out of the paths that the cluster allows."
    )
    return finding("error", "path_not_allowed", where, message, HINT)


def _leaving(path: Path, depth: int) -> Iterator[Path]:
    """Yield the paths in a directory that lead out. What cannot be read is the subject of other checks."""
    if not path_roots.is_allowed(path):
        yield path
        return
    with suppress(OSError, ValueError), os.scandir(path) as entries:
        for entry in entries:
            if entry.is_symlink() and not path_roots.is_allowed(entry.path):
                yield Path(entry.path)
            elif depth and entry.is_dir():
                yield from _leaving(Path(entry.path), depth - 1)
