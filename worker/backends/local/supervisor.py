"""Supervises one run on this machine: `python -m worker.backends.local.supervisor DIRECTORY`.

It starts the command of DIRECTORY/run.json, holds its time limit, passes on the wish to stop,
ends every process of the run, and leaves exit.json. It detaches itself and needs nobody:
worker, broker and database may come and go meanwhile. It reads no settings and holds no secrets.
"""

import contextlib
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

# A run that reaches its time limit may save first; one that is cancelled only has to end.
SAVE_GRACE_SECONDS = 120.0
KILL_GRACE_SECONDS = 10.0
MAX_RECORD_BYTES = 1 << 16
# Processes that copy the last log lines end by themselves once the ranks are gone.
DRAIN_GRACE_SECONDS = 2.0

# The run's directory, in the environment of every process of it, so that none is missed: torchrun
# gives each rank a session of its own, and a rank whose torchrun was killed has another parent.
MARKER = "SFT_RUN"


def main(layout: RunLayout) -> None:
    """Become the supervisor in a session of its own; who started it waits no longer than for its pid."""
    ready, supervisor_side = os.pipe()
    if os.fork():
        os.close(supervisor_side)
        os.read(ready, 1)  # ends when the other side is closed
        return
    os.setsid()
    with (layout.directory / "run.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return  # another supervisor has this run
        if was_started(layout):
            return
        signal.signal(signal.SIGTERM, _raise_cancelled)
        _write(layout.supervisor, {"pid": os.getpid(), "start_ticks": _start_ticks(os.getpid())})
        os.close(supervisor_side)
        _write(layout.exit, _supervise(layout))


class _Cancelled(Exception):
    pass


def _raise_cancelled(_signal: int, _frame: FrameType | None) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise _Cancelled


def _supervise(layout: RunLayout) -> dict[str, Any]:
    """Start the run, wait for its end, and return the record of it."""
    run = json.loads(layout.launch.read_text())
    try:
        process = subprocess.Popen(
            run["command"], env=_environment(layout.directory, run), cwd=layout.directory,
            stdin=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
    except OSError as error:
        return _record("start_failed", f"The trainer could not be started: {error}")
    try:
        return _wait(layout, process, run["time_limit_seconds"])
    except _Cancelled:
        process.terminate()
        _wait_at_most(process, KILL_GRACE_SECONDS)
        return _record("cancelled", "Cancelled while running.", process.poll())
    finally:
        psutil.wait_procs(_strays(layout.directory), timeout=DRAIN_GRACE_SECONDS)
        kill_strays(layout.directory)
        process.kill()
        process.wait()


def _wait(layout: RunLayout, process: subprocess.Popen[bytes], limit_seconds: float) -> dict[str, Any]:
    killed_before = oom_kills()
    if _wait_at_most(process, limit_seconds):
        return exit_of(process.returncode, oom_kills() - killed_before)
    layout.stop.write_text(f"{STOP_TIME_LIMIT}\n")
    _wait_at_most(process, SAVE_GRACE_SECONDS)
    process.terminate()
    _wait_at_most(process, KILL_GRACE_SECONDS)
    message = f"The time limit of {limit_seconds / 60:g} minutes was reached."
    return _record("time_limit", message, process.poll())


def exit_of(code: int, kills: int) -> dict[str, Any]:
    """kills: processes of this machine that the kernel ended for want of memory while the run went on."""
    if code != 0 and kills > 0:
        message = (
            f"The launcher exited with {code}; meanwhile the kernel ended {kills} processes of this "
            "machine for want of memory."
        )
        return _record("oom_killed", message, code)
    return _record("exited", f"The launcher exited with {code}.", code)


def oom_kills(counters: Path = Path("/proc/vmstat")) -> int:
    """How many processes the kernel has ended since its start because memory was exhausted."""
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
    """Readers see the whole file or none."""
    fresh = path.with_suffix(f".{os.getpid()}.new")
    fresh.write_text(json.dumps(value))
    fresh.rename(path)


def _read(path: Path) -> dict[str, Any] | None:
    """An object that was written; None where a run has put something else in its place."""
    try:
        value = json.loads(LocalFiles().read(path, 0, MAX_RECORD_BYTES))
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


# -- what others may ask about a run ---------------------------------------------------------------


def was_started(layout: RunLayout) -> bool:
    return layout.supervisor.exists()


def exit_record(layout: RunLayout) -> dict[str, Any] | None:
    """How the run ended, as its supervisor wrote it; None where it has not."""
    try:
        record = _read(layout.exit)
    except FileNotFoundError:
        return None
    readable = record and all(isinstance(record.get(name), str) for name in ("reason", "message"))
    return record if readable else _record("unreadable", "The run's exit record cannot be read.")


def is_alive(layout: RunLayout) -> bool:
    """Whether the run's supervisor lives: the pid alone could be another process by now."""
    return _supervisor_pid(layout) is not None


def stop(layout: RunLayout) -> None:
    """Ask the supervisor to end its run; without one, end what it left behind."""
    pid = _supervisor_pid(layout)
    if pid is not None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
    elif exit_record(layout) is None:
        sweep_up(layout)


def sweep_up(layout: RunLayout) -> dict[str, Any]:
    """End the processes of a run whose supervisor was killed, and leave the record in its place."""
    kill_strays(layout.directory)
    record = _record("killed", "The run's supervisor was killed, and the run ended with it.")
    with contextlib.suppress(OSError):  # a run that is in the way of its own record keeps nobody else
        if exit_record(layout) is None:
            _write(layout.exit, record)
    return record


def kill_strays(directory: Path) -> None:
    """SIGKILL every process that carries the run's marker, until none is left."""
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
        left = _read(layout.supervisor) or {}
    except FileNotFoundError:
        return None
    pid = left.get("pid")
    if not isinstance(pid, int) or _start_ticks(pid) != left.get("start_ticks"):
        return None
    try:
        # A run could write down any process; only a supervisor of this directory counts.
        return pid if psutil.Process(pid).cmdline()[-1:] == [str(layout.directory)] else None
    except psutil.Error:
        return None


def _start_ticks(pid: int) -> int | None:
    """Start of a living process in clock ticks since boot (proc(5), stat, field 22); None if it is gone.

    Not the wall-clock time that psutil gives: that one moves when the clock is set.
    """
    try:
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    except OSError:
        return None
    return None if state in "ZX" else int(fields[18])


if __name__ == "__main__":
    main(RunLayout(Path(sys.argv[1])))
