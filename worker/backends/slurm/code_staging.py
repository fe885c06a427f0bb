"""Stage the trainer's code on the cluster, once for each hash of its content."""

import secrets
from pathlib import Path

from trainer.sources import sources
from worker.backends.access.files import Files
from worker.backends.access.transport import Transport
from worker.backends.trainer_bundle import archive
from worker.errors import BackendUnavailable

UNPACK_SECONDS = 60.0


def stage(directory: Path, transport: Transport) -> None:
    """Put the code into a directory atomically, unless it is there. Raises BackendUnavailable."""
    files = transport.files()
    if _is_there(directory, files):
        return
    files.make_directory(directory.parent)
    fresh = directory.with_name(f".{directory.name}-{secrets.token_hex(4)}")
    files.make_directory(fresh)
    files.write(fresh / "code.tar.gz", archive(sources(), "gz"))
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
