"""The trainer's own files: what a cluster gets, and what identifies a version of the checks."""

import hashlib
from functools import lru_cache
from pathlib import Path

ROOT = Path(__file__).parent
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
    found = sorted(path for path in ROOT.rglob("*") if path.suffix in SUFFIXES and path.is_file())
    return [(str(path.relative_to(ROOT.parent)), path.read_bytes()) for path in found]
