"""Run each job in its own namespaces, with a process for each replica, in place of a node group.

The replicas of a job share a private network, and see the storage where the job mounts it. Ending the
sandbox ends all its processes. It needs root: `obstacle()` tells whether sandboxes can be made.
"""

import fcntl
import json
import os
import shutil
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

UNSHARE = ("unshare", "--mount", "--net", "--pid", "--mount-proc", "--fork", "--kill-child")
SIOCSIFFLAGS, IFF_UP = 0x8914, 1
SUBDOMAIN = "jobs.lepton.local"

OnLine = Callable[[int, bytes], None]
"""(replica's index, line without its end)."""
OnEnd = Callable[[list[int | None]], None]
"""Exit codes of the replicas; negative ones are signals."""


@lru_cache
def obstacle() -> str | None:
    """Return why jobs cannot be run here; None if they can."""
    if not shutil.which("unshare"):
        return "the command unshare (util-linux) is missing"
    tried = subprocess.run([*UNSHARE, "true"], capture_output=True, text=True, timeout=10)
    return f"namespaces cannot be made: {tried.stderr.strip()}" if tried.returncode else None


class Sandbox:
    """The running replicas of a job."""

    def __init__(
        self,
        command: list[str],
        environments: list[dict[str, str]],
        mounts: list[tuple[Path, str]],
        directory: Path,
        *,
        on_line: OnLine,
        on_end: OnEnd,
    ) -> None:
        """environments: of each replica. mounts: (directory here, path in the job). directory: its own."""
        hosts = directory / "hosts"
        prefix = environments[0]["LEPTON_JOB_WORKER_PREFIX"]
        names = [f"{prefix}-{index}.{SUBDOMAIN}" for index in range(len(environments))]
        hosts.write_text(f"127.0.0.1 localhost {socket.gethostname()} {' '.join(names)}\n")
        for _, target in mounts:
            # Never removed, because that would end the mounts of other jobs on it.
            Path(target).mkdir(parents=True, exist_ok=True)
        self._pipes = [os.pipe() for _ in environments]
        self.process = self._start(command, environments, mounts, hosts)
        readers = [
            threading.Thread(target=self._read, args=(index, on_line), daemon=True)
            for index in range(len(environments))
        ]
        for reader in readers:
            reader.start()
        threading.Thread(target=self._wait, args=(readers, on_end), daemon=True).start()

    def _start(
        self,
        command: list[str],
        environments: list[dict[str, str]],
        mounts: list[tuple[Path, str]],
        hosts: Path,
    ) -> "subprocess.Popen[str]":
        ends = [write for _, write in self._pipes]
        process = subprocess.Popen(
            [*UNSHARE, sys.executable, __file__],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, pass_fds=ends, start_new_session=True,
        )  # fmt: skip
        binds = [(str(hosts), "/etc/hosts"), *((str(source), target) for source, target in mounts)]
        self._write(
            process, {"command": command, "environments": environments, "binds": binds, "outputs": ends}
        )
        for end in ends:
            os.close(end)
        return process

    def tell(self, signal_number: int, index: int | None = None) -> None:
        """Send a signal to the first process of one replica, or of all."""
        with suppress(BrokenPipeError, ValueError):
            self._write(self.process, {"signal": signal_number, "replica": index})

    def kill(self) -> None:
        """Kill all processes of the sandbox."""
        self.process.kill()

    def _close(self) -> None:
        for stream in (self.process.stdin, self.process.stdout):
            assert stream is not None
            with suppress(BrokenPipeError):
                stream.close()

    def _write(self, process: "subprocess.Popen[str]", message: dict[str, Any]) -> None:
        assert process.stdin is not None
        process.stdin.write(json.dumps(message) + "\n")
        process.stdin.flush()

    def _read(self, index: int, on_line: OnLine) -> None:
        with os.fdopen(self._pipes[index][0], "rb") as output:
            for line in output:
                on_line(index, line.rstrip(b"\n"))

    def _wait(self, readers: list[threading.Thread], on_end: OnEnd) -> None:
        assert self.process.stdout is not None
        codes: list[int | None] = [None] * len(readers)
        for line in self.process.stdout:
            index, codes_of = json.loads(line)
            codes[index] = codes_of
        self.process.wait()
        self._close()
        for reader in readers:
            reader.join()
        on_end(codes)


# -- inside ----------------------------------------------------------------------------------------


def main() -> None:
    """Run as the sandbox's first process: read the job and signals from stdin, write exits to stdout."""
    job = json.loads(sys.stdin.readline())
    _set_up("lo")
    for source, target in job["binds"]:
        subprocess.run(["mount", "--bind", source, target], check=True, timeout=10)
    replicas = [
        subprocess.Popen(job["command"], env=env, stdin=subprocess.DEVNULL, stdout=end, stderr=end, cwd="/")
        for env, end in zip(job["environments"], job["outputs"], strict=True)
    ]
    for end in job["outputs"]:
        os.close(end)
    threading.Thread(target=_forward_signals, args=(replicas,), daemon=True).start()
    waiting = [threading.Thread(target=_report, args=(one, replicas)) for one in range(len(replicas))]
    for thread in waiting:
        thread.start()
    for thread in waiting:
        thread.join()
    os._exit(0)


def _set_up(interface: str) -> None:
    """Do `ip link set lo up` without the package iproute2: netdevice(7)."""
    with socket.socket() as any_socket:
        flags = struct.pack("16sh14x", interface.encode(), IFF_UP)
        fcntl.ioctl(any_socket, SIOCSIFFLAGS, flags)


def _forward_signals(replicas: "list[subprocess.Popen[bytes]]") -> None:
    for line in sys.stdin:
        message = json.loads(line)
        chosen = replicas if message["replica"] is None else [replicas[message["replica"]]]
        for replica in chosen:
            replica.send_signal(message["signal"])
    os._exit(1)  # the server has ended; the end of the first process ends all others


def _report(index: int, replicas: "list[subprocess.Popen[bytes]]") -> None:
    code = replicas[index].wait()
    sys.stdout.write(json.dumps([index, code]) + "\n")
    sys.stdout.flush()
    if code:  # a failed replica fails the job
        for other in replicas:
            other.kill()


if __name__ == "__main__":
    main()
