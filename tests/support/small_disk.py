"""A file system of a few megabytes, which a test can fill."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

WHY_NOT = "this needs the right to mount a tmpfs"


@contextmanager
def mounted(directory: Path, size: str = "16m") -> Iterator[Path]:
    """Mount a tmpfs on a new directory; without the right to do so skip the test, in CI fail."""
    directory.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "sft-test", str(directory)]
    if subprocess.run(mount, check=False).returncode:
        (pytest.fail if "CI" in os.environ else pytest.skip)(WHY_NOT)
    try:
        yield directory
    finally:
        subprocess.run(["umount", "--lazy", str(directory)], check=True)


def fill(disk: Path) -> Path:
    """Fill the free space, and return the file that occupies it."""
    filler = disk / "filler"
    with filler.open("ab", buffering=0) as file:
        for size in (1 << 20, 4096, 1):
            try:
                while file.write(b"\0" * size):
                    pass
            except OSError:
                os.fsync(file.fileno())
    return filler
