"""Marks everything that a test session starts, so that it ends with the session: a plugin of conftest.py.

The mark is a directory of the session's own, the TMPDIR of all its processes. Runs of the local backend drop
their environment, but keep TMPDIR. Daemons and jobs of Slurm drop it too; their SLURM_CONF lies in there.
Each process of pytest-xdist is a session inside the one of its controller.
"""

import os
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

import pytest

from tests.support import reaper

_reaper = pytest.StashKey[int]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_reaper] = begin()


def pytest_sessionfinish(session: pytest.Session) -> None:
    with suppress(BrokenPipeError):  # the reaper may have been killed
        if session.testsfailed:
            os.write(session.config.stash[_reaper], reaper.KEEP)


def begin() -> int:
    """Start a session and its reaper; return a pipe to the reaper."""
    directory = Path(tempfile.mkdtemp(prefix="sft-"))  # short: it is in the path of sockets
    directory.chmod(0o1777)  # databases and jobs have users of their own
    pipe = _start_reaper(directory)
    # pytest looks after its own directories: it keeps those of the last three sessions.
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", tempfile.gettempdir())
    os.environ["TMPDIR"] = tempfile.tempdir = str(directory)
    return pipe


def _start_reaper(directory: Path) -> int:
    """In a session of the kernel's own: a Ctrl-C, or a signal to pytest's group, does not reach it."""
    theirs, ours = os.pipe()
    null = os.open(os.devnull, os.O_WRONLY)
    command = [sys.executable, "-P", reaper.__file__, str(os.getpid()), str(directory)]
    files = [(os.POSIX_SPAWN_DUP2, theirs, 0), (os.POSIX_SPAWN_DUP2, null, 1), (os.POSIX_SPAWN_DUP2, null, 2)]
    os.posix_spawn(sys.executable, command, os.environ, file_actions=files, setsid=True)
    for descriptor in (theirs, null):
        os.close(descriptor)
    return ours
