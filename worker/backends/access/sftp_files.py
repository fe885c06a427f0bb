"""Files of a cluster over SFTP, and by commands where SFTP has no operation for it.

SFTP version 3 (draft-ietf-secsh-filexfer-02) is what OpenSSH speaks: times are whole seconds, and its
errors are three: no such file, permission denied, failure. Hard links are an extension of OpenSSH, and so are
renames that replace a file.
"""

import asyncio
import errno
import os
import stat
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any

from asyncssh import (
    FILEXFER_TYPE_REGULAR,
    SFTPAttrs,
    SFTPClient,
    SFTPClientFile,
    SFTPError,
    SFTPFailure,
    SFTPNoSuchFile,
)

from worker.backends.access.files import BehindLink, FileStat, names_below
from worker.backends.access.ssh_connection import Connection, Deadline, Lost, Stale, wait_for
from worker.errors import BackendUnavailable

MAX_SESSIONS = 4
OPERATION_SECONDS = 30.0
TREE_SECONDS = 300.0
_MAX_NAME_BYTES = 255

ABSENT = 44
UNUSABLE = 45

# $1 is the directory to begin at, $2 the name in the last of the directories that follow. Each step is
# taken only through a directory that is no link, and what was reached stays the place of work.
_WALK = f"""
cd -P -- "$1" || exit {UNUSABLE}
name=./$2
shift 2
for part; do
    if [ -L "./$part" ] || [ ! -d "./$part" ]; then exit {ABSENT}; fi
    cd -P -- "./$part" || exit {UNUSABLE}
done
if [ ! -L "$name" ] && [ ! -e "$name" ]; then exit {ABSENT}; fi
"""
_REMOVE = _WALK + 'exec rm -rf --one-file-system -- "$name"'
_SIZES = _WALK + 'exec find -P "$name" -type f -printf "%s\\n"'

Execute = Callable[[Sequence[str], bytes, float], tuple[int, bytes, bytes]]


class _LinkFound(SFTPNoSuchFile):
    """A link leads to the path."""


class SftpFiles:
    """The Files interface over SSH.

    SFTP opens by path only. So the links on the way are resolved before and after: who puts a link there and
    takes it away within that moment can show another file of the account.
    Times have whole seconds.
    """

    def __init__(self, connection: Connection, execute: Execute) -> None:
        self._connection = connection
        self._execute = execute
        self._slots = asyncio.BoundedSemaphore(MAX_SESSIONS)

    @contextmanager
    def open(self, path: Path, below: Path | None = None) -> Iterator["_OpenFile"]:
        file = _OpenFile(
            lambda: self._ask(path, lambda sftp: _open_regular(sftp, path, below)),
            lambda operation: self._ask_file(path, operation),
        )
        try:
            yield file
        finally:
            with suppress(FileNotFoundError, BackendUnavailable):
                file.close()

    def stat(self, path: Path, below: Path | None = None) -> FileStat:
        return _stat(self._ask(path, lambda sftp: _regular(sftp, path, below)))

    def read(self, path: Path, offset: int, limit: int, below: Path | None = None) -> bytes:
        return self._ask(path, lambda sftp: _read(sftp, path, offset, limit, below))

    def tree_size(self, path: Path, below: Path) -> int:
        return sum(map(int, self._in_tree(_SIZES, path, below).split()))

    def remove_tree(self, path: Path, below: Path) -> None:
        """As Files has it; a run that changes directories into links meanwhile is outrun, not locked out."""
        self._in_tree(_REMOVE, path, below)

    def sizes(self, paths: Sequence[Path]) -> dict[Path, int]:
        names = b"".join(os.fsencode(path) + b"\0" for path in paths)
        look = ["xargs", "-0", "-r", "stat", "--printf=%f %s %n\\0", "--"]
        code, out, err = self._execute(look, names, OPERATION_SECONDS)
        if code not in (0, 123):  # 123: of some there was nothing to say
            raise BackendUnavailable(f"Sizes of files cannot be had: {_words(err)}")
        records = [record.split(b" ", 2) for record in out.split(b"\0")[:-1]]
        return {
            Path(os.fsdecode(name)): int(size) for mode, size, name in records if stat.S_ISREG(int(mode, 16))
        }

    def write(self, path: Path, content: bytes, mode: int = 0o600) -> None:
        fresh = _fresh(path)
        with self._changing(path, fresh):
            self._ask(path, lambda sftp: _write(sftp, fresh, content, mode, path))

    def create(self, path: Path, content: bytes, mode: int = 0o600) -> bool:
        fresh = _fresh(path)
        with self._changing(path, fresh):
            self._ask(path, lambda sftp: _write(sftp, fresh, content, mode))
            # Where the answer is lost, a retry would find its own link.
            return self._ask(path, lambda sftp: _link(sftp, fresh, path), retry_on=Stale)

    def make_directory(self, path: Path, mode: int = 0o700) -> None:
        # mkdir gives -m to the last directory only, and the umask to all.
        script = 'umask "$1" && exec mkdir -p -- "$2"'
        command = ["sh", "-c", script, "sh", f"{0o777 & ~mode:03o}", str(path)]
        code, _, err = self._execute(command, b"", OPERATION_SECONDS)
        if code:
            raise BackendUnavailable(f"{path} cannot be made: {_words(err)}")

    def remove(self, path: Path) -> None:
        with suppress(FileNotFoundError):
            self._ask(path, lambda sftp: sftp.remove(os.fsencode(path)))

    # -- how ------------------------------------------------------------------------------------

    def _ask[T](
        self, path: Path, operation: Callable[[SFTPClient], Awaitable[T]], retry_on: type[Lost] = Lost
    ) -> T:
        """Run one operation, and once more where the connection was cut meanwhile."""
        deadline = Deadline(OPERATION_SECONDS)
        try:
            return wait_for(self._ask_once(path, operation, deadline))
        except retry_on:
            return wait_for(self._ask_once(path, operation, deadline))

    async def _ask_once[T](
        self, path: Path, operation: Callable[[SFTPClient], Awaitable[T]], deadline: Deadline
    ) -> T:
        try:
            async with self._connection.use(self._slots, deadline) as link, link.sftp() as sftp:
                return await operation(sftp)
        except SFTPError as error:
            raise _translated(error, path) from error

    def _ask_file[T](self, path: Path, operation: Callable[[], Awaitable[T]]) -> T:
        """Run one operation of an open file: on the session that has it, which other calls use as well."""
        return wait_for(self._ask_file_once(path, operation, Deadline(OPERATION_SECONDS)))

    async def _ask_file_once[T](
        self, path: Path, operation: Callable[[], Awaitable[T]], deadline: Deadline
    ) -> T:
        try:
            async with self._connection.use(self._slots, deadline):
                return await operation()
        except SFTPError as error:
            raise _translated(error, path) from error

    @contextmanager
    def _changing(self, path: Path, fresh: Path) -> Iterator[None]:
        """What hinders a change is no absence; a temporary file does not stay behind."""
        try:
            yield
        except (FileNotFoundError, BackendUnavailable) as error:
            with suppress(BackendUnavailable):
                self.remove(fresh)
            if isinstance(error, BackendUnavailable):
                raise
            raise BackendUnavailable(f"{path} cannot be made: its directory is not there.") from error

    def _in_tree(self, script: str, path: Path, below: Path) -> bytes:
        *parents, name = names_below(path, below)
        command = ["sh", "-c", script, "sh", str(below), name, *parents]
        code, out, err = self._execute(command, b"", TREE_SECONDS)
        if code == ABSENT:
            raise FileNotFoundError(errno.ENOENT, "no such file", str(path))
        if code:
            raise BackendUnavailable(f"{path} cannot be used: {_words(err)}")
        return out


class _OpenFile:
    """The OpenFile of a handle. It ends with its connection: the unchanged file is opened again then."""

    def __init__(
        self, reopen: Callable[[], SFTPClientFile], ask: Callable[[Callable[[], Awaitable[Any]]], Any]
    ) -> None:
        self._reopen, self._ask = reopen, ask
        self._file = reopen()
        self._seen = self.stat()

    def stat(self) -> FileStat:
        return _stat(self._again_if_lost(lambda: self._file.stat()))

    def read(self, offset: int, limit: int) -> bytes:
        content: bytes = self._again_if_lost(lambda: _read_file(self._file, offset, limit))
        return content

    def close(self) -> None:
        self._ask(self._file.close)

    def _again_if_lost(self, operation: Callable[[], Awaitable[Any]]) -> Any:
        try:
            return self._ask(operation)
        except Lost:
            self._file = self._reopen()
            if _stat(self._ask(self._file.stat)) != self._seen:
                raise FileNotFoundError(errno.ENOENT, "it was replaced") from None
            return self._ask(operation)


# -- operations ------------------------------------------------------------------------------------


@asynccontextmanager
async def _closed(file: SFTPClientFile) -> AsyncIterator[SFTPClientFile]:
    """Close a file at the end of the block."""
    try:
        yield file
    except SFTPError:  # after anything else the session ends, and its files with it
        await file.close()
        raise
    await file.close()


async def _regular(sftp: SFTPClient, path: Path, below: Path | None) -> SFTPAttrs:
    """Return the attributes of a regular file. Raises _LinkFound if a link below `below` leads to it."""
    if below is None:
        return _checked(await sftp.lstat(os.fsencode(path)))
    try:
        expected = names_below(path, below)
    except FileNotFoundError as error:  # as an answer of the server: the session stays usable
        raise SFTPNoSuchFile("not below the directory") from error
    found, real, top = await asyncio.gather(
        sftp.lstat(os.fsencode(path)), _real(sftp, path), _real(sftp, below)
    )
    if real != top.joinpath(*expected):
        raise _LinkFound("a link leads to it")
    return _checked(found)


def _checked(found: SFTPAttrs) -> SFTPAttrs:
    """Raises SFTPNoSuchFile where it is none of a regular file."""
    if found.type != FILEXFER_TYPE_REGULAR:
        raise SFTPNoSuchFile("not a regular file")
    return found


async def _open_regular(sftp: SFTPClient, path: Path, below: Path | None) -> SFTPClientFile:
    before = await _regular(sftp, path, below)
    file = await sftp.open(os.fsencode(path), "rb")
    try:
        opened, after = await asyncio.gather(file.stat(), _regular(sftp, path, below))
        if len({_kind(before), _kind(opened), _kind(after)}) > 1:
            raise SFTPNoSuchFile("it was replaced")
    except SFTPError:  # after anything else the session ends, and its files with it
        await file.close()
        raise
    return file


def _kind(found: SFTPAttrs) -> tuple[object, ...]:
    """What a file that is being written keeps."""
    return found.type, found.permissions, found.uid, found.gid


async def _read(sftp: SFTPClient, path: Path, offset: int, limit: int, below: Path | None) -> bytes:
    file = await _open_regular(sftp, path, below)
    async with _closed(file):
        return await _read_file(file, offset, limit)


async def _read_file(file: SFTPClientFile, offset: int, limit: int) -> bytes:
    found = await file.stat()
    # asyncssh reads blocks in parallel and fills a short one with zeros: a file that grows meanwhile
    # would get a hole. So it is asked for what is there, and for a byte where nothing seems to be.
    size = min(limit, max(1, (found.size or 0) - offset))
    content: Any = await file.read(size, offset)
    return bytes(content)


def _stat(found: SFTPAttrs) -> FileStat:
    return FileStat(found.size or 0, (found.mtime or 0) * 1_000_000_000)


async def _real(sftp: SFTPClient, path: Path) -> Path:
    return Path(os.fsdecode(await sftp.realpath(os.fsencode(path))))


async def _write(sftp: SFTPClient, path: Path, content: bytes, mode: int, name: Path | None = None) -> None:
    """Write a file, then give it another name, replacing what has it."""
    async with _closed(await sftp.open(os.fsencode(path), "wb")) as file:
        await file.chmod(mode)
        await file.write(content)
    if name is not None:
        await sftp.posix_rename(os.fsencode(path), os.fsencode(name))


async def _link(sftp: SFTPClient, path: Path, name: Path) -> bool:
    """Move a file to another name. False where something has that name already; the file is removed then."""
    try:
        await sftp.link(os.fsencode(path), os.fsencode(name))
        created = True
    except SFTPFailure:
        if not await sftp.lexists(os.fsencode(name)):
            raise
        created = False
    await sftp.remove(os.fsencode(path))
    return created


def _fresh(path: Path) -> Path:
    return path.with_name(f".new-{uuid.uuid4().hex}")


def _translated(error: SFTPError, path: Path) -> Exception:
    too_long = any(len(os.fsencode(part)) > _MAX_NAME_BYTES for part in path.parts)
    if isinstance(error, _LinkFound):
        return BehindLink(errno.ELOOP, "a link leads to it", str(path))
    if isinstance(error, SFTPNoSuchFile) or too_long:
        return FileNotFoundError(errno.ENOENT, "no such file", str(path))
    return BackendUnavailable(f"{path} cannot be used: {error.reason}")


def _words(err: bytes) -> str:
    """What a command said about its failure."""
    return err.decode(errors="replace").strip()[-500:] or "it gave no reason"
