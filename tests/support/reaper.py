"""Ends what a test session leaves behind: `python reaper.py PID DIRECTORY`. session.py starts it.

The reaper outlives the session: it waits for the end of pytest, also by SIGKILL. Then it ends every process
whose environment names the session's directory, with all descendants, and removes the directory.
"""

import os
import select
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil

KEEP = b"keep\n"
"""On stdin: leave the files in the directory. They help to explain a failed test."""

TERM_SECONDS = 5.0
"""A Postgres that is ended in order removes its shared memory."""
KILL_SECONDS = 30.0
POLL_SECONDS = 0.05


def main(pid: int, directory: Path) -> None:
    wait_for_end(pid)
    end_all(directory)
    os.set_blocking(0, False)
    unmount_all(directory)
    if sys.stdin.buffer.readline() == KEEP:
        with suppress(OSError):
            directory.rmdir()  # nothing lies in it
    else:
        shutil.rmtree(directory, ignore_errors=True)


def wait_for_end(pid: int) -> None:
    """Wait until a process is gone. A pidfd tells that, whoever has inherited a pipe of the process."""
    with suppress(ProcessLookupError):
        select.select([os.pidfd_open(pid)], [], [])


def members(directory: Path) -> set[psutil.Process]:
    """All living processes whose environment names the directory, and their descendants.

    A process that hides its environment, as sshd does for a connection, is found by its parent.
    """
    found = {process for process in psutil.process_iter() if _names(process, bytes(directory))}
    found |= {child for process in found for child in _children(process)}
    return {process for process in found if process.pid != os.getpid() and lives(process)}


def end_all(directory: Path) -> None:
    """End the processes of a session in order; kill those that remain."""
    left = members(directory)
    for number in (signal.SIGTERM, signal.SIGCONT):
        _send(number, left)
    _wait(left, TERM_SECONDS)
    deadline = time.monotonic() + KILL_SECONDS
    while (left := {process for process in left if lives(process)} | members(directory)) and (
        time.monotonic() < deadline
    ):
        _send(signal.SIGKILL, left)
        _wait(left, 1.0)


def unmount_all(directory: Path) -> None:
    """Unmount what a test has mounted below the directory."""
    for line in reversed(Path("/proc/self/mounts").read_text().splitlines()):
        if (target := line.split()[1]).startswith(f"{directory}/"):
            subprocess.run(["umount", "--lazy", target], check=False, capture_output=True, timeout=30)


def _names(process: psutil.Process, directory: bytes) -> bool:
    """Not by psutil's environ(): that ends where a process has blanked its own for a title."""
    try:
        return directory in Path(f"/proc/{process.pid}/environ").read_bytes()
    except OSError:
        return False


def _children(process: psutil.Process) -> list[psutil.Process]:
    try:
        return process.children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def lives(process: psutil.Process) -> bool:
    """A zombie is gone: pid 1 of a container may never collect it."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _send(number: signal.Signals, processes: set[psutil.Process]) -> None:
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.send_signal(number)


def _wait(processes: set[psutil.Process], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while any(map(lives, processes)) and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
