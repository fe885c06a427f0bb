"""Files of a cluster over SFTP, and by commands where SFTP has no words for it.

SFTP version 3 (draft-ietf-secsh-filexfer-02) is what OpenSSH speaks: times are whole seconds, and its
errors are three: no such file, permission denied, failure.
"""

import errno
import os
import stat
import threading
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from paramiko import SFTPClient
from paramiko.sftp_attr import SFTPAttributes

from worker.backends.access.files import FileStat
from worker.backends.access.ssh_connection import Connection, Deadline, Link, Lost, Watch
from worker.errors import BackendUnavailable

MAX_SESSIONS = 4
OPERATION_SECONDS = 30.0
TREE_SECONDS = 300.0
# What OpenSSH answers in one piece; others answer with less, and are asked again.
_REQUEST_BYTES = 255 * 1024
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
# SFTP has hard links as an extension that paramiko does not know.
_LINK = 'ln -T -- "$1" "$2"; code=$?; rm -f -- "$1"; exit $code'

Execute = Callable[[Sequence[str], bytes, float], tuple[int, bytes, bytes]]


class SftpFiles:
    """The Files interface over SSH.

    Unlike LocalFiles it looks at a path first and opens it then: who changes a file into a link in
    between can show another file of the same user. Times have whole seconds.
    """

    def __init__(self, connection: Connection, execute: Execute) -> None:
        self._connection = connection
        self._execute = execute
        self._slots = threading.BoundedSemaphore(MAX_SESSIONS)

    def stat(self, path: Path) -> FileStat:
        found = self._ask(path, lambda sftp: _regular(sftp, path))
        return FileStat(found.st_size or 0, (found.st_mtime or 0) * 1_000_000_000)

    def read(self, path: Path, offset: int, limit: int) -> bytes:
        return self._ask(path, lambda sftp: _read(sftp, path, offset, limit))

    def resolve(self, path: Path) -> Path:
        return self._ask(path, lambda sftp: _resolve(sftp, path))

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
            command = ["sh", "-c", _LINK, "sh", str(fresh), str(path)]
            code, _, err = self._execute(command, b"", OPERATION_SECONDS)
            if code and not self._ask(path, lambda sftp: _exists(sftp, path)):
                raise BackendUnavailable(f"{path} cannot be made: {_words(err)}")
            return not code

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

    def _ask[T](self, path: Path, operation: Callable[[SFTPClient], T]) -> T:
        """One operation, and once more where a connection was cut meanwhile."""
        deadline = Deadline(OPERATION_SECONDS)
        try:
            return self._ask_once(path, operation, deadline)
        except Lost:
            return self._ask_once(path, operation, deadline)

    def _ask_once[T](self, path: Path, operation: Callable[[SFTPClient], T], deadline: Deadline) -> T:
        with self._connection.use(self._slots, deadline) as (link, watch):
            sftp = _session(link, watch, deadline)
            try:
                result = operation(sftp)
            except OSError as error:
                if _is_over(sftp):
                    raise
                link.idle.append(sftp)
                raise _translated(error, path) from error
            except BaseException:
                sftp.close()
                raise
            link.idle.append(sftp)
            return result

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
        *parents, name = path.relative_to(below).parts
        command = ["sh", "-c", script, "sh", str(below), name, *parents]
        code, out, err = self._execute(command, b"", TREE_SECONDS)
        if code == ABSENT:
            raise FileNotFoundError(errno.ENOENT, "no such file", str(path))
        if code:
            raise BackendUnavailable(f"{path} cannot be used: {_words(err)}")
        return out


# -- sessions --------------------------------------------------------------------------------------


def _session(link: Link, watch: Watch, deadline: Deadline) -> SFTPClient:
    """One that nobody else uses: paramiko's is not for several threads at once."""
    while link.idle:
        with suppress(IndexError):  # another was faster
            sftp = link.idle.pop()
            if not _is_over(sftp):
                watch.channel = sftp.get_channel()
                return sftp
    channel = link.open(deadline)
    watch.channel = channel
    channel.invoke_subsystem("sftp")
    return SFTPClient(channel)


def _is_over(sftp: SFTPClient) -> bool:
    channel = sftp.get_channel()
    return channel is None or bool(channel.closed or channel.eof_received)


# -- operations ------------------------------------------------------------------------------------


def _regular(sftp: SFTPClient, path: Path) -> SFTPAttributes:
    return _checked(sftp.lstat(os.fsencode(path)), path)


def _checked(found: SFTPAttributes, path: Path) -> SFTPAttributes:
    """Raises FileNotFoundError where it is none of a regular file."""
    if not stat.S_ISREG(found.st_mode or 0):
        raise FileNotFoundError(errno.ENOENT, "not a regular file", str(path))
    return found


def _read(sftp: SFTPClient, path: Path, offset: int, limit: int) -> bytes:
    _regular(sftp, path)
    with sftp.open(os.fsencode(path), "rb", bufsize=0) as file:
        _checked(file.stat(), path)
        file.MAX_REQUEST_SIZE = _REQUEST_BYTES
        file.seek(offset)
        return file.read(limit)


def _resolve(sftp: SFTPClient, path: Path) -> Path:
    sftp.stat(os.fsencode(path))  # what is asked next may let the last name be missing
    try:
        return Path(sftp.normalize(os.fsencode(path)) or "/")
    except UnicodeDecodeError:  # paramiko takes the answer for UTF-8
        raise FileNotFoundError(errno.ENOENT, "leads to a name that is no text", str(path)) from None


def _write(sftp: SFTPClient, path: Path, content: bytes, mode: int, name: Path | None = None) -> None:
    """Write a file, then give it another name, replacing what has it."""
    with sftp.open(os.fsencode(path), "wb") as file:
        file.chmod(mode)
        file.set_pipelined(True)
        file.write(content)
    if name is not None:
        sftp.posix_rename(os.fsencode(path), os.fsencode(name))


def _exists(sftp: SFTPClient, path: Path) -> bool:
    try:
        sftp.lstat(os.fsencode(path))
    except FileNotFoundError:
        return False
    return True


def _fresh(path: Path) -> Path:
    return path.with_name(f".new-{uuid.uuid4().hex}")


def _translated(error: OSError, path: Path) -> Exception:
    too_long = any(len(os.fsencode(part)) > _MAX_NAME_BYTES for part in path.parts)
    if error.errno == errno.ENOENT or too_long:
        return FileNotFoundError(errno.ENOENT, "no such file", str(path))
    return BackendUnavailable(f"{path} cannot be used: {error.strerror or error}")


def _words(err: bytes) -> str:
    """What a command said about its failure."""
    return err.decode(errors="replace").strip()[-500:] or "it gave no reason"
