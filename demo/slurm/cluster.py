"""A real Slurm on this machine, in one directory, on free ports of the loopback interface."""

import os
import shutil
import signal
import subprocess
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from demo.slurm import accounting, keys, leftovers, machine
from demo.slurm.config import Config, Knobs
from demo.slurm.daemons import Daemon, listens
from demo.slurm.install import PATH, NotInstalled, find, missing_requirement

COMMAND_SECONDS = 30.0
CANCEL_SECONDS = 20.0
READY_CHECK_SECONDS = 5.0
"""Timeout of one readiness check of a daemon."""

# States (`sinfo --format %t`) of a node that accepts jobs; a node that does not respond has a `*`.
USABLE = {"idle", "mix", "alloc", "comp"}


def _silent(_: str) -> None:
    """Show no progress."""


class DemoSlurm:
    """The daemons of one cluster. Each can be killed and restarted by name.

    Names: munged, mariadbd and slurmdbd (with accounting), slurmctld, slurmd-n1 and so on, sshd.
    """

    def __init__(self, config: Config) -> None:
        self.config = config
        self.directory = config.directory
        self.user = config.knobs.user
        self.conf = self.directory / "etc" / "slurm.conf"
        self.log_directory = self.directory / "log"
        self.bin = self.directory / "bin"
        """First on the PATH of daemons, jobs and SSH sessions: for replacement commands."""
        self.ssh_port = config.ssh_port
        self.ssh_key = self.directory / "ssh" / "client"
        self.known_hosts = self.directory / "ssh" / "known_hosts"
        self.environment = {
            "SLURM_CONF": str(self.conf),
            "PATH": f"{self.bin}:{os.environ.get('PATH', PATH)}",
        }
        """Variables that a client of the cluster needs in addition to its own environment."""
        self.daemons = {daemon.name: daemon for daemon in self._daemons()}

    # -- start and stop ------------------------------------------------------------------------

    @classmethod
    def start(
        cls, directory: Path, *, progress: Callable[[str], None] = _silent, **knobs: Any
    ) -> "DemoSlurm":
        """Start the daemons of the directory's cluster that do not run; the state of earlier starts is kept.

        Knobs are those of `config.Knobs`. Raises NotInstalled, and ClusterError with a daemon's last output
        (then all daemons are stopped).
        """
        if message := missing_requirement():
            raise NotInstalled(message)
        directory = directory.resolve()
        machine.prepare(Knobs(**knobs).user)
        cluster = cls(Config.make(directory, Knobs(**knobs)))
        try:
            cluster._start(progress)
        except BaseException:
            cluster.stop()
            raise
        return cluster

    @classmethod
    def load(cls, directory: Path) -> "DemoSlurm":
        """Return the cluster that was started in the directory. Raises FileNotFoundError."""
        return cls(Config.load(directory.resolve()))

    def _start(self, progress: Callable[[str], None]) -> None:
        machine.require_access(
            self.directory, self.user, *(["mysql"] if self.config.knobs.accounting else [])
        )
        keys.make_munge_key(self.directory / "etc" / "munge.key")
        keys.make_ssh_keys(self.directory / "ssh", self.ssh_port)
        if self.config.knobs.accounting:
            accounting.make_data(self.directory)
        for daemon in self.daemons.values():
            self.revive(daemon.name)
            self._set_up_after(daemon.name)
            progress(daemon.name)

    def _set_up_after(self, name: str) -> None:
        """Set up what the daemons after this one need."""
        if name == "mariadbd":
            accounting.make_database(self.config)
        elif name == "slurmdbd":
            self._allow_submission()
        elif name == "slurmctld":
            self.resume()

    def _allow_submission(self) -> None:
        known = self.run(
            "sacctmgr", "--noheader", "--parsable2", "show", "associations", "format=User"
        ).stdout
        if self.user not in known.split():
            for command in accounting.associations(self.user):
                self.run(*command)

    def stop(self, *, purge: bool = False) -> None:
        """Stop jobs, daemons and their remaining processes; `purge` removes the directory, too."""
        for daemon in self.daemons.values():
            if (pid := daemon.pid()) is not None:
                os.kill(pid, signal.SIGCONT)
        self._cancel_all()
        for daemon in reversed(self.daemons.values()):
            daemon.stop()
        leftovers.end_all(self.conf)
        if purge:
            shutil.rmtree(self.directory)

    def _cancel_all(self) -> None:
        """Cancel jobs as far as Slurm responds: remaining processes are killed later."""
        if self.pid("slurmctld") is None:
            return
        with suppress(subprocess.SubprocessError):
            for user in {"root", self.user}:
                self.run("scancel", f"--user={user}", timeout=CANCEL_SECONDS)

    def __enter__(self) -> "DemoSlurm":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    # -- daemons -------------------------------------------------------------------------------

    def pid(self, name: str) -> int | None:
        """Return the pid of a daemon; None if it does not run."""
        return self.daemons[name].pid()

    def kill(self, name: str, number: signal.Signals = signal.SIGKILL) -> None:
        """Send a signal to a daemon; after SIGKILL wait for its end. Raises ClusterError unless it runs."""
        self.daemons[name].kill(number)

    def revive(self, name: str) -> None:
        """Start a daemon unless it runs, and wait until it is ready. Raises ClusterError."""
        self.daemons[name].start()
        self.daemons[name].wait_ready()

    def resume(self) -> None:
        """Let drained nodes accept jobs again: a killed controller may assign an id twice,
        and drains the node that detects it."""
        if drained := self.run("sinfo", "--noheader", "--states=drain", "--format=%N").stdout.split():
            self.run("scontrol", "update", f"NodeName={drained[0]}", "State=RESUME")

    def run(
        self, *command: str, user: str | None = None, stdin: str = "", timeout: float = COMMAND_SECONDS
    ) -> "subprocess.CompletedProcess[str]":
        """Run a client command as `user`, by default as the current user.

        Raises subprocess.CalledProcessError and subprocess.TimeoutExpired.
        """
        as_user = ["runuser", "-u", user, "--"] if user else []
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("SLURM")}
        return subprocess.run(
            [*as_user, *command], env={**inherited, **self.environment}, cwd="/", input=stdin,
            capture_output=True, text=True, timeout=timeout, check=True,
        )  # fmt: skip

    def _succeeds(self, *command: str) -> bool:
        try:
            self.run(*command, timeout=READY_CHECK_SECONDS)
        except subprocess.SubprocessError:
            return False
        return True

    # -- definitions of the daemons, in the order of their start -------------------------------

    def _daemons(self) -> list[Daemon]:
        knobs = self.config.knobs
        return [
            self._munged(),
            *([self._mariadbd(), self._slurmdbd()] if knobs.accounting else []),
            self._slurmctld(),
            *(self._slurmd(number) for number in range(1, knobs.nodes + 1)),
            *([self._sshd()] if knobs.ssh else []),
        ]

    def _daemon(self, name: str, command: list[str], is_ready: Callable[[], bool]) -> Daemon:
        environment = {"SLURM_CONF": str(self.conf), "PATH": f"{self.bin}:{PATH}", "LC_ALL": "C.UTF-8"}
        path = find(command[0]) or command[0]
        return Daemon(name, [path, *command[1:]], self.directory, environment, is_ready)

    def _munged(self) -> Daemon:
        here, socket = self.directory, self.directory / "munge" / "socket"
        command = [
            "munged", "--foreground", "--force", f"--socket={socket}", f"--key-file={here}/etc/munge.key",
            f"--pid-file={here}/run/munged.own", f"--seed-file={here}/munge/seed",
            f"--log-file={here}/log/munged.log", "--num-threads=4",
        ]  # fmt: skip
        return self._daemon("munged", command, lambda: self._succeeds("munge", "-S", str(socket), "-n"))

    def _mariadbd(self) -> Daemon:
        command = accounting.server(self.config)
        return self._daemon("mariadbd", command, lambda: accounting.responds(self.directory))

    def _slurmdbd(self) -> Daemon:
        command = ["slurmdbd", "-D"]  # slurmdbd finds slurmdbd.conf next to SLURM_CONF
        return self._daemon("slurmdbd", command, lambda: self._succeeds("sacctmgr", "-n", "list", "cluster"))

    def _slurmctld(self) -> Daemon:
        command = ["slurmctld", "-D", "-f", str(self.conf)]
        return self._daemon("slurmctld", command, lambda: self._succeeds("sinfo", "--noheader"))

    def _slurmd(self, number: int) -> Daemon:
        node = f"n{number}"
        command = ["slurmd", "-D", "-N", node, "-f", str(self.conf)]
        return self._daemon(f"slurmd-{node}", command, lambda: self._accepts_jobs(number))

    def _accepts_jobs(self, number: int) -> bool:
        if not listens(self.config.slurmd_port(number)):
            return False
        with suppress(subprocess.SubprocessError):
            query = ("sinfo", "--noheader", f"--nodes=n{number}", "--partition=main", "--format=%t")
            return self.run(*query, timeout=READY_CHECK_SECONDS).stdout.strip() in USABLE
        return False

    def _sshd(self) -> Daemon:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # sshd does not start without it
        command = ["sshd", "-D", "-e", "-f", str(self.directory / "etc" / "sshd_config")]
        return self._daemon("sshd", command, lambda: listens(self.ssh_port, b"SSH-"))
