"""A run that tries to leave its isolation, and then does what the stand-in does.

`python hostile.py HOME read|change ...`: the report, escapes.json in the run directory, tells what succeeded.
`read` does no harm where a run is not isolated. HOME: of the service, which alone has it as CANARY in its
environment.
"""

import json
import os
import socket
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from tests.support.stand_in import launcher

Attempts = dict[str, Callable[[], object]]


def reads(run: Path, home: Path) -> Attempts:
    """Return what a run must not be able to read or reach."""
    data = run.parents[3]
    return {
        "reads the admin key": lambda: (data / "admin.key").read_text(),
        "reads the database": lambda: (data / "sft.db").read_bytes(),
        "reads the profiles": lambda: (data / "clusters.toml").read_text(),
        "reads a local file of root": lambda: Path("/etc/shadow").read_text(),
        "lists other jobs": lambda: only(data / "jobs", run.parents[1].name),
        "lists other attempts": lambda: only(run.parent, run.name),
        "lists the home directory": lambda: only(home, ".cache"),
        "reads the home directory": lambda: (home / "token").read_text(),
        "connects to the broker": lambda: connect(data / "run" / "valkey.sock"),
        "reads the service's environment": lambda: environment_with(home),
        "sees other processes": others,
        "reaches the supervisor's root": lambda: via_processes(data / "admin.key"),
        "signals the supervisor": lambda: os.kill(json.loads((run / "pid.json").read_text())["pid"], 0),
        "opens kernel.core_pattern": lambda: os.open("/proc/sys/kernel/core_pattern", os.O_WRONLY),
    }


def changes(run: Path) -> Attempts:
    """Return what a run must not be able to change."""
    job = run.parents[1]
    data = job.parents[1]
    return {
        "writes to the data directory": lambda: (data / "written").touch(),
        "writes to its job": lambda: (job / "written").touch(),
        "writes to the code": lambda: (Path(os.environ["CODE"]) / "written").touch(),
        "writes to the system": lambda: Path("/usr/written").touch(),
        "creates a device": lambda: os.mknod(run / "disk", 0o60600, os.makedev(254, 0)),
        "changes its root": lambda: os.chroot(run),
        "removes its launch file": lambda: (run / "run.json").unlink(),
        "rewrites its launch file": lambda: (run / "run.json").open("a"),
        "replaces its launch file": lambda: replaced(run / "run.json"),
        "removes its supervisor's record": lambda: (run / "pid.json").unlink(),
        "replaces its logs": lambda: (run / "logs").rename(run / "moved"),
        "moves its directory": lambda: run.rename(run.with_name("moved")),
    }


def needs(run: Path, save: Path, root: Path) -> Attempts:
    """What a run has to be able to do."""
    return {
        "reads its config": lambda: (run / "config.yaml").read_text(),
        "writes to its run directory": lambda: (run / "own").touch(),
        "saves": lambda: (save / "own").touch(),
        "reads its roots": lambda: next((root / "model").iterdir()).read_bytes(),
        "writes to its roots": lambda: (root / "own").touch(),
        "has a temporary directory": lambda: Path("/tmp/own").touch(),
        "has shared memory": lambda: Path("/dev/shm/own").touch(),
        "has a home directory": lambda: (Path.home() / "own").touch(),
        "resolves names": lambda: socket.getaddrinfo("localhost", 80),
    }


def only(directory: Path, name: str) -> None:
    if [path.name for path in directory.iterdir()] == [name]:
        raise OSError("nothing else is there")


def connect(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))


def processes() -> list[Path]:
    return [path for path in Path("/proc").iterdir() if path.name.isdigit()]


def environment_with(home: Path) -> None:
    for process in processes():
        with suppress(OSError):
            if f"CANARY={home}".encode() in (process / "environ").read_bytes():
                return
    raise OSError("no process has it")


def others() -> None:
    """Whether a process of the service can be seen."""
    for process in processes():
        with suppress(OSError):
            if b"worker.app" in (process / "cmdline").read_bytes():
                return
    raise OSError("no other process is there")


def via_processes(path: Path) -> None:
    for process in processes():
        with suppress(OSError):
            (process / "root" / path.relative_to("/")).read_text()
            return
    raise OSError("no process has it")


def replaced(path: Path) -> None:
    fresh = path.with_name("fresh")
    fresh.touch()
    fresh.rename(path)


def capabilities() -> str:
    status = Path("/proc/self/status").read_text()
    return next(line.split()[1] for line in status.splitlines() if line.startswith("CapEff"))


def succeeded(tried: Attempts) -> dict[str, bool]:
    found = {}
    for name, attempt in tried.items():
        try:
            attempt()
        except Exception:
            found[name] = False
        else:
            found[name] = True
    return found


def main() -> int:
    home, what = Path(sys.argv.pop(1)), sys.argv.pop(1)
    run = Path(sys.argv[-1]).parent
    save, root = run.parents[1] / "checkpoints", run.parents[3] / "inputs"
    attempts = reads(run, home) | (changes(run) if what == "change" else {})
    report: dict[str, object] = {"uid": os.getuid(), "groups": os.getgroups(), "capabilities": capabilities()}
    report |= {"needs": succeeded(needs(run, save, root)), "escapes": succeeded(attempts)}
    (run / "escapes.json").write_text(json.dumps(report))
    return launcher.main()


if __name__ == "__main__":
    sys.exit(main())
