"""The trainer's code as an archive for a cluster. Deterministic: the same files give the same bytes."""

import hashlib
import io
import tarfile
from collections.abc import Iterable
from functools import lru_cache

from worker.settings import PROJECT_ROOT

SUFFIXES = {".py", ".json", ".yaml"}

Member = tuple[str, bytes]
"""A relative path and the content of a file."""


@lru_cache
def code_hash() -> str:
    """Return the hash of the names and contents of the trainer's files."""
    digest = hashlib.sha256()
    for name, content in sources():
        digest.update(f"{name}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()[:20]


def sources() -> list[Member]:
    """Return the trainer's files, by their paths in the project."""
    root = PROJECT_ROOT / "trainer"
    found = sorted(path for path in root.rglob("*") if path.suffix in SUFFIXES and path.is_file())
    return [(str(path.relative_to(PROJECT_ROOT)), path.read_bytes()) for path in found]


def archive(members: Iterable[Member], compression: str) -> bytes:
    """Return a tar file. compression: `gz` or `xz`."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=f"w:{compression}") as file:  # type: ignore[call-overload]
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(content), 0o600
            file.addfile(member, io.BytesIO(content))
    return buffer.getvalue()
