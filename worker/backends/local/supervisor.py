"""Supervises one run on this machine: `python -m worker.backends.local.supervisor DIRECTORY`.

The supervisor starts the command of DIRECTORY/run.json, enforces its time limit, handles cancellation,
ends every process of the run, and writes exit.json. It is detached: worker, broker and database may
stop and restart meanwhile. It reads no settings and holds no secrets.
"""

import contextlib
import errno
import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import FrameType
from typing import Any

import psutil

from trainer.run_layout import STOP_TIME_LIMIT, RunLayout
from worker.backends.access.environment import inherited_environment
from worker.backends.access.local_files import LocalFiles
from worker.backends.local.launch import Launched, launch
from worker.errors import BackendUnavailable, Misconfigured

# A run that reaches its time limit may save first; a cancelled run only has to end.
SAVE_GRACE_SECONDS = 120.0
KILL_GRACE_SECONDS = 10.0
MAX_RECORD_BYTES = 1 << 16
NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
SPACE_INTERVAL_SECONDS = 1.0
# Processes that copy the last log lines end by themselves after the ranks.
DRAIN_GRACE_SECONDS = 2.0

# Set to the run's directory in the environment of all its processes, so that each can be found: torchrun
# gives each rank its own session, and a rank whose torchrun was killed has another parent.
MARKER = "SFT_RUN"


def main(layout: RunLayout) -> None:
    """Fork the supervisor into its own session; return in the parent once the pid is on disk."""
    ready, supervisor_side = os.pipe()
    if os.fork():
        os.close(supervisor_side)
        os.read(ready, 1)  # returns when the other side is closed
        return
    os.setsid()
    with layout.lock.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return  # another supervisor has this run
        if was_started(layout):
            return
        signal.signal(signal.SIGTERM, _raise_cancelled)
        _write(layout.supervisor, {"pid": os.getpid(), "start_ticks": _start_ticks(os.getpid())})
        os.close(supervisor_side)
        _write_when_there_is_space(layout.exit, _supervise(layout))


class _Cancelled(Exception):
    pass


def _raise_cancelled(_signal: int, _frame: FrameType | None) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise _Cancelled


def _supervise(layout: RunLayout) -> dict[str, Any]:
    """Start the run, wait for its end, and return its exit record."""
    run = json.loads(layout.launch.read_text())
    launched: Launched | None = None
    try:
        launched = launch(run, layout, _environment(layout.directory, run))
        return _wait(layout, launched, run["time_limit_seconds"])
    except (OSError, Misconfigured) as error:
        return _record("start_failed", f"The trainer could not be started: {error}")
    except _Cancelled:
        return _record("cancelled", "Cancelled while running.", _terminate(launched))
    finally:
        psutil.wait_procs(_strays(layout.directory), timeout=DRAIN_GRACE_SECONDS)
        kill_strays(layout.directory)
        if launched:
            launched.kill()


def _terminate(launched: Launched | None) -> int | None:
    """Ask the launcher to end, and return its exit code if it did."""
    if launched is None:
        return None
    launched.terminate()
    _wait_at_most(launched.process, KILL_GRACE_SECONDS)
    return launched.process.poll()


def _wait(layout: RunLayout, launched: Launched, limit_seconds: float) -> dict[str, Any]:
    killed_before = oom_kills()
    if _wait_at_most(launched.process, limit_seconds):
        return exit_of(launched.process.returncode, oom_kills() - killed_before)
    # Replaces a link that the run may have put there; write_text would follow it.
    with contextlib.suppress(BackendUnavailable):
        LocalFiles().write(layout.stop, f"{STOP_TIME_LIMIT}\n".encode(), mode=0o640)
    _wait_at_most(launched.process, SAVE_GRACE_SECONDS)
    message = f"The time limit of {limit_seconds / 60:g} minutes was reached."
    return _record("time_limit", message, _terminate(launched))


def exit_of(code: int, kills: int) -> dict[str, Any]:
    """Return the exit record of a launcher.

    kills: processes on this machine that the kernel's OOM killer ended during the run.
    """
    if code != 0 and kills > 0:
        message = (
            f"The launcher exited with {code}. The kernel killed {kills} processes on this machine during "
            "the run because memory was exhausted."
        )
        return _record("oom_killed", message, code)
    return _record("exited", f"The launcher exited with {code}.", code)


def oom_kills(counters: Path = Path("/proc/vmstat")) -> int:
    """Return how many processes the kernel's OOM killer has ended since boot."""
    with contextlib.suppress(OSError):
        for line in counters.read_text().splitlines():
            if line.startswith("oom_kill "):
                return int(line.split()[1])
    return 0


def _wait_at_most(process: subprocess.Popen[bytes], seconds: float) -> bool:
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        return False
    return True


def _environment(directory: Path, run: dict[str, Any]) -> dict[str, str]:
    return {**inherited_environment(), **run["env"], MARKER: str(directory)}


def _record(reason: str, message: str, exit_code: int | None = None) -> dict[str, Any]:
    return {"reason": reason, "message": message, "exit_code": exit_code, "at": time.time()}


def _write(path: Path, value: dict[str, Any]) -> None:
    """Write atomically: readers see the complete file or none. No link of the run's is followed."""
    LocalFiles().write(path, json.dumps(value).encode())


def _write_when_there_is_space(path: Path, value: dict[str, Any]) -> None:
    """Write atomically, on a full disk as soon as there is space: a run without a record counts as killed."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    while True:
        try:
            return _write(path, value)
        except BackendUnavailable as error:
            if not isinstance(error.__cause__, OSError) or error.__cause__.errno not in NO_SPACE:
                raise
        time.sleep(SPACE_INTERVAL_SECONDS)


def _read(path: Path) -> dict[str, Any] | None:
    """Return the JSON object in a file; None if a run has put something else in its place."""
    try:
        value = json.loads(LocalFiles().read(path, 0, MAX_RECORD_BYTES))
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


# -- queries and actions of the backend ------------------------------------------------------------


def was_started(layout: RunLayout) -> bool:
    return layout.supervisor.exists()


def exit_record(layout: RunLayout) -> dict[str, Any] | None:
    """Return the exit record that the supervisor wrote; None if there is none."""
    try:
        record = _read(layout.exit)
    except FileNotFoundError:
        return None
    readable = record and all(isinstance(record.get(name), str) for name in ("reason", "message"))
    return record if readable else _record("unreadable", "The run's exit record cannot be read.")


def is_alive(layout: RunLayout) -> bool:
    """Return whether the run's supervisor is alive; a process that reuses its pid does not count."""
    return _supervisor_pid(layout) is not None


def stop(layout: RunLayout) -> None:
    """Ask the supervisor to end its run; without a live supervisor, end the run's remaining processes."""
    pid = _supervisor_pid(layout)
    if pid is not None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
    elif exit_record(layout) is None:
        sweep_up(layout)


def sweep_up(layout: RunLayout) -> dict[str, Any]:
    """End the processes of a run whose supervisor was killed, and write the exit record."""
    kill_strays(layout.directory)
    record = _record("killed", "The run's supervisor was killed, and the run ended with it.")
    with contextlib.suppress(
        BackendUnavailable
    ):  # a run may block its own record, but not the poll of other runs
        if exit_record(layout) is None:
            _write(layout.exit, record)
    return record


def kill_strays(directory: Path) -> None:
    """SIGKILL every process with the run's marker, until none is left."""
    deadline = time.monotonic() + KILL_GRACE_SECONDS
    while (strays := _strays(directory)) and time.monotonic() < deadline:
        for process in strays:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(strays, timeout=1)


def _strays(directory: Path) -> list[psutil.Process]:
    return [process for process in psutil.process_iter() if _marker_of(process) == str(directory)]


def _marker_of(process: psutil.Process) -> str | None:
    try:
        return None if process.status() == psutil.STATUS_ZOMBIE else process.environ().get(MARKER)
    except psutil.Error:
        return None


def _supervisor_pid(layout: RunLayout) -> int | None:
    try:
        record = _read(layout.supervisor) or {}
    except FileNotFoundError:
        return None
    pid = record.get("pid")
    if not isinstance(pid, int) or _start_ticks(pid) != record.get("start_ticks"):
        return None
    try:
        # A run could write any pid into the file; only a supervisor of this directory counts.
        return pid if psutil.Process(pid).cmdline()[-1:] == [str(layout.directory)] else None
    except psutil.Error:
        return None


def _start_ticks(pid: int) -> int | None:
    """Return a process's start in clock ticks since boot (proc(5), stat, field 22); None if it has ended.

    psutil returns wall-clock time instead, which changes when the clock is set.
    """
    try:
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    except OSError:
        return None
    return None if state in "ZX" else int(fields[18])


if __name__ == "__main__":
    main(RunLayout(Path(sys.argv[1])))
