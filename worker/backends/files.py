"""Files of a job where the service sees them on a local mount."""

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from worker.backends.base import FileStat
from worker.errors import BackendUnavailable

# The last three: a link, a pipe without a writer or a socket, a directory.
ABSENT = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENXIO, errno.EISDIR)


class LocalFiles:
    """The Files interface over this machine's own file system.

    A run may leave anything under the names that the service reads: only regular files count, and
    a link, a pipe or a device is as good as nothing.
    """

    def stat(self, path: Path) -> FileStat:
        with _opened(path) as file:
            found = os.fstat(file.fileno())
            return FileStat(found.st_size, found.st_mtime_ns)

    def read(self, path: Path, offset: int, limit: int) -> bytes:
        with _opened(path) as file:
            file.seek(offset)
            return file.read(limit)


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    """A regular file. Raises FileNotFoundError where none is, BackendUnavailable where it cannot be read."""
    try:
        # O_NONBLOCK: opening a pipe that nobody writes to would wait forever.
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise FileNotFoundError(errno.ENOENT, "not a regular file", str(path))
            yield file
    except OSError as error:
        if error.errno in ABSENT:
            raise FileNotFoundError(errno.ENOENT, "no such file", str(path)) from error
        raise BackendUnavailable(f"{path} cannot be read: {error.strerror}") from error
