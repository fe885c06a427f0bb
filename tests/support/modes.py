"""Modes of the files in a data directory: which of them other accounts may use."""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# What a run writes, and the client's own.
OF_RUNS = ("checkpoints", "events.jsonl", "end.json", "starts", "stop", "inputs", "clusters.toml")


@contextmanager
def umask(mask: int) -> Iterator[None]:
    """Set the umask of this process and of those that it starts."""
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


def open_to_others(data_dir: Path) -> dict[str, str]:
    """Return the modes of the service's own files that group or others may use; sockets included."""
    own = [data_dir, *(path for path in data_dir.rglob("*") if not _is_of_run(path.relative_to(data_dir)))]
    return {
        str(path.relative_to(data_dir)): f"{mode(path):04o}"
        for path in own
        if not path.is_symlink() and path.exists() and mode(path) & 0o077
    }


def _is_of_run(path: Path) -> bool:
    return any(part in OF_RUNS or part.startswith("rank-") for part in path.parts)
