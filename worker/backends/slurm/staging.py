"""The trainer's code on the cluster: staged once, by the hash of its content."""

import hashlib
import io
import secrets
import tarfile
from functools import lru_cache
from pathlib import Path

from worker.backends.base import Files
from worker.backends.transport import Transport
from worker.errors import BackendUnavailable
from worker.settings import PROJECT_ROOT

UNPACK_SECONDS = 60.0
SUFFIXES = {".py", ".json", ".yaml"}


@lru_cache
def code_hash() -> str:
    """Of the names and contents of the trainer's files."""
    digest = hashlib.sha256()
    for name, content in _sources():
        digest.update(f"{name}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()[:20]


def stage(directory: Path, transport: Transport) -> None:
    """Put the code into a directory, in one step, unless it is there. Raises BackendUnavailable."""
    files = transport.files()
    if _is_there(directory, files):
        return
    files.make_directory(directory.parent)
    fresh = directory.with_name(f".{directory.name}-{secrets.token_hex(4)}")
    files.make_directory(fresh)
    files.write(fresh / "code.tar.gz", _archive())
    unpack = 'cd "$1" && tar -xzf code.tar.gz && rm code.tar.gz && { mv -T "$1" "$2" || rm -rf "$1"; }'
    answer = transport.run(
        ["bash", "-c", unpack, "stage", str(fresh), str(directory)], timeout=UNPACK_SECONDS
    )
    if not _is_there(directory, files):
        raise BackendUnavailable(
            f"The trainer's code cannot be put into {directory}: {answer.err.strip()[-300:]}"
        )


def _is_there(directory: Path, files: Files) -> bool:
    marker = directory / "trainer" / "__main__.py"
    return marker in files.sizes([marker])


def _sources() -> list[tuple[str, bytes]]:
    root = PROJECT_ROOT / "trainer"
    found = sorted(path for path in root.rglob("*") if path.suffix in SUFFIXES and path.is_file())
    return [(str(path.relative_to(PROJECT_ROOT)), path.read_bytes()) for path in found]


def _archive() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, content in _sources():
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(content), 0o600
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()
