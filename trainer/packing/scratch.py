"""The scratch directory of a packing, beside its output, and the right of one process to use it.

.NAME.packing.lock       locked by the process that packs into NAME
.NAME.packing-DIGEST/    spill and unfinished output of a packing with these options and sources
"""

import fcntl
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def write_synced(path: Path, content: bytes) -> None:
    """Write a file, and wait until it is on the disk."""
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


class OutputInUse(BlockingIOError):
    """Another process packs into the same output."""


@contextmanager
def output_lock(output: Path) -> Iterator[None]:
    """Let one process at a time pack into `output`. Raises OutputInUse."""
    output.parent.mkdir(parents=True, exist_ok=True)
    path = output.parent / f".{output.name}.packing.lock"
    descriptor = _locked(path, output)
    try:
        yield
    finally:
        path.unlink()
        os.close(descriptor)


def _locked(path: Path, output: Path) -> int:
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            raise OutputInUse(
                f"Another process packs into {output}. Wait for it, or name another output."
            ) from None
        if os.fstat(descriptor).st_nlink:
            return descriptor
        os.close(descriptor)  # its last owner has just removed it


def scratch_of(output: Path, identity: Mapping[str, Any]) -> Path:
    """Return the directory of a packing with this identity. Remove those of other packings into `output`."""
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
    scratch = output.parent / f".{output.name}.packing-{digest[:16]}"
    ours = re.compile(re.escape(f".{output.name}.packing-") + "[0-9a-f]{16}")
    for path in output.parent.iterdir():
        if ours.fullmatch(path.name) and path != scratch:
            shutil.rmtree(path, ignore_errors=True)
    return scratch
