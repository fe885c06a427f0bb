"""Files of a cluster that the service sees on a local mount."""

import errno
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from worker.backends.access.files import BehindLink, FileStat, names_below
from worker.errors import BackendUnavailable

# From the third on: a link, a pipe without a writer or a socket, a directory, a name that is too long.
ABSENT = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENXIO, errno.EISDIR, errno.ENAMETOOLONG)
# O_NONBLOCK: opening a pipe without a writer would block.
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class LocalFiles:
    """The Files interface over this machine's own file system.

    A run may leave anything under the names that the service reads: only regular files count, and
    a link, a pipe or a device is treated as a missing file.
    """

    @contextmanager
    def open(self, path: Path, below: Path | None = None) -> Iterator["_OpenFile"]:
        descriptor = _open_regular(path, below)
        try:
            yield _OpenFile(path, descriptor)
        finally:
            os.close(descriptor)

    def stat(self, path: Path, below: Path | None = None) -> FileStat:
        with self.open(path, below) as file:
            return file.stat()

    def read(self, path: Path, offset: int, limit: int, below: Path | None = None) -> bytes:
        with self.open(path, below) as file:
            return file.read(offset, limit)

    def tree_size(self, path: Path, below: Path) -> int:
        with _parent(path, below) as parent:
            # fwalk does not follow links, not even one in place of `path`, and yields the opened directory.
            return sum(
                os.stat(name, dir_fd=directory, follow_symlinks=False).st_size
                for _, _, files, directory in os.fwalk(path.name, dir_fd=parent)
                for name in files
            )

    def remove_tree(self, path: Path, below: Path) -> None:
        with _parent(path, below) as parent:
            if stat.S_ISDIR(os.stat(path.name, dir_fd=parent, follow_symlinks=False).st_mode):
                shutil.rmtree(path.name, dir_fd=parent)
            else:
                os.unlink(path.name, dir_fd=parent)

    def sizes(self, paths: Sequence[Path]) -> dict[Path, int]:
        found = ((path, _regular_size(path)) for path in paths)
        return {path: size for path, size in found if size is not None}

    def write(self, path: Path, content: bytes, mode: int = 0o600) -> None:
        with _usable(path), _temporary(path, content, mode) as fresh:
            fresh.rename(path)

    def create(self, path: Path, content: bytes, mode: int = 0o600) -> bool:
        with _usable(path), _temporary(path, content, mode) as fresh:
            try:
                os.link(fresh, path)
            except FileExistsError:
                return False
            return True

    def make_directory(self, path: Path, mode: int = 0o700) -> None:
        with _usable(path):
            for directory in (*reversed(path.parents), path):
                _make_directory(directory, mode)

    def remove(self, path: Path) -> None:
        with _usable(path), suppress(FileNotFoundError, NotADirectoryError):
            path.unlink()


@dataclass(frozen=True)
class _OpenFile:
    """The OpenFile of a descriptor."""

    path: Path
    descriptor: int

    def stat(self) -> FileStat:
        found = os.fstat(self.descriptor)
        if not found.st_nlink:
            raise FileNotFoundError(errno.ENOENT, "it was removed", str(self.path))
        return FileStat(found.st_size, found.st_mtime_ns)

    def read(self, offset: int, limit: int) -> bytes:
        pieces: list[bytes] = []
        try:
            # One call may return less, for example where a signal arrives or over 2 GiB are wanted.
            while limit > 0 and (piece := os.pread(self.descriptor, limit, offset)):
                pieces.append(piece)
                offset, limit = offset + len(piece), limit - len(piece)
        except OSError as error:
            raise _translated(error, self.path) from error
        return b"".join(pieces)


def _regular_size(path: Path) -> int | None:
    """Return the bytes of a regular file, None for anything else. Raises BackendUnavailable."""
    try:
        found = path.lstat()
    except OSError as error:
        if error.errno in ABSENT:
            return None
        raise _translated(error, path) from error
    return found.st_size if stat.S_ISREG(found.st_mode) else None


@contextmanager
def _temporary(path: Path, content: bytes, mode: int) -> Iterator[Path]:
    """Yield a synced temporary file with this content next to `path`; remove it afterwards if it remains."""
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=".new-")
    try:
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(descriptor, mode)
            file.write(content)
            file.flush()
            os.fsync(descriptor)
        yield Path(name)
    finally:
        Path(name).unlink(missing_ok=True)


def _make_directory(path: Path, mode: int) -> None:
    if path.is_dir():
        return
    with suppress(FileExistsError):  # made by another process, or not a directory: see below
        path.mkdir(mode)
        # Restore the bits that the umask removed, and keep those inherited from the parent (setgid).
        path.chmod(mode | stat.S_IMODE(path.stat().st_mode))
    if not path.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, "it exists and is not a directory", str(path))


@contextmanager
def _usable(path: Path) -> Iterator[None]:
    """Translate an error of a change into BackendUnavailable: it can be retried, nothing is missing."""
    try:
        yield
    except OSError as error:
        raise BackendUnavailable(f"{path} cannot be changed: {error.strerror}") from error


@contextmanager
def _parent(path: Path, below: Path) -> Iterator[int]:
    """Open the parent directory of `path` without following any link below `below`.

    Raises FileNotFoundError if there is no such path, BackendUnavailable if the files cannot be used.
    """
    try:
        top = os.open(below, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise BackendUnavailable(f"{below} cannot be opened: {error.strerror}") from error
    with ExitStack() as opened:
        opened.callback(os.close, top)
        try:
            for part in names_below(path, below)[:-1]:
                top = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=top)
                opened.callback(os.close, top)
            yield top
        except OSError as error:
            raise _translated(error, path) from error


def _open_regular(path: Path, below: Path | None) -> int:
    """Open a regular file. Raises FileNotFoundError if there is none, BackendUnavailable if unreadable."""
    try:
        descriptor = _open_below(path, below) if below else os.open(path, _READ)
    except OSError as error:
        if below and _has_link(path, below):
            raise BehindLink(errno.ELOOP, "a link leads to it", str(path)) from error
        raise _translated(error, path) from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise FileNotFoundError(errno.ENOENT, "not a regular file", str(path))
    return descriptor


def _has_link(path: Path, below: Path) -> bool:
    way = (one for one in (path, *path.parents) if one != below and one.is_relative_to(below))
    return any(map(os.path.islink, way))


def _open_below(path: Path, below: Path) -> int:
    if not below.is_dir():  # nothing was written yet
        raise FileNotFoundError(errno.ENOENT, "no such directory", str(below))
    with _parent(path, below) as parent:
        return os.open(path.name, _READ, dir_fd=parent)


def _translated(error: OSError, path: Path) -> Exception:
    if error.errno in ABSENT:
        return FileNotFoundError(errno.ENOENT, "no such file", str(path))
    return BackendUnavailable(f"{path} cannot be used: {error.strerror}")
