"""The data directory: it belongs to the service's account, and no other account can enter it."""

import os
import pwd
import stat
from collections.abc import Iterator
from contextlib import suppress
from itertools import chain
from pathlib import Path

from rich.console import Console

from worker.errors import Misconfigured
from worker.settings import PRIVATE_NAMES

# What another account put there would be executed, removed or sent as the service.
OWN = (*PRIVATE_NAMES, "local/*", "local/*/*", "removals/*", "broker/*", "run/*")
OTHERS = stat.S_IRWXG | stat.S_IRWXO
INPUTS = "inputs"
SHOWN = 5
MISSING = (FileNotFoundError, NotADirectoryError)


def close(data_dir: Path) -> None:
    """Take the rights of other accounts away from the service's files, and print what was changed.

    What is deeper, as checkpoints are, and `inputs` stay as they are: nobody else can enter the directories
    above. Raises Misconfigured if something that the service relies on belongs to another account, or cannot
    be changed.
    """
    try:
        changed = [f"{path} ({mode:04o})" for path in _paths(data_dir) if (mode := _tighten(path))]
    except OSError as error:
        raise Misconfigured(
            f"{error.filename} cannot be closed to other accounts: {error.strerror}.",
            hint="Name another directory with --data-dir.",
        ) from error
    if changed:
        more = f" and {len(changed) - SHOWN} more" if len(changed) > SHOWN else ""
        message = f"Other accounts had access to {', '.join(changed[:SHOWN])}{more}. It was removed."
        with suppress(OSError):  # the output may be on a full disk
            Console(soft_wrap=True, highlight=False).print(message, markup=False)


def _paths(data_dir: Path) -> Iterator[Path]:
    """Yield a directory before what is in it: once it is closed nobody else can replace an entry."""
    for path in chain([data_dir], chain.from_iterable(map(data_dir.glob, OWN))):
        with suppress(*MISSING):  # a running service may have removed it
            _require_own(path)
            yield path
    for path in chain.from_iterable(map(data_dir.glob, ("*", "jobs/*", "lepton/*"))):
        with suppress(*MISSING):
            if path.name != INPUTS and path.lstat().st_uid == os.geteuid() and not path.is_symlink():
                yield path


def _require_own(path: Path) -> None:
    here = os.geteuid()
    for found in (path.lstat(), path.stat()):
        if found.st_uid != here:
            raise Misconfigured(
                f"{path} belongs to {_account(found.st_uid)}, but the service runs as {_account(here)}.",
                hint="Run the service as the owner, or use another directory (--data-dir). If you trust "
                f"what is in it, you can give it to the service: chown -R {here} {path}",
            )


def _account(uid: int) -> str:
    try:
        return f"{pwd.getpwuid(uid).pw_name} (uid {uid})"
    except KeyError:
        return f"uid {uid}"


def _tighten(path: Path) -> int:
    """Return the mode that a path had if it was changed, else 0.

    Another group may search a directory: runs with an account of their own find their files through it.
    """
    with suppress(*MISSING):
        found = path.stat()
        mode = stat.S_IMODE(found.st_mode)
        is_searched = stat.S_ISDIR(found.st_mode) and found.st_gid != os.getegid()
        taken = OTHERS & ~stat.S_IXGRP if is_searched else OTHERS
        if mode & taken:
            path.chmod(mode & ~taken)
            return mode
    return 0
