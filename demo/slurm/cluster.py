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
from demo.slurm.install import PATH, NotInstalled, find, obstacle

COMMAND_SECONDS = 30.0
CANCEL_SECONDS = 20.0
SHORT_SECONDS = 5.0
"""For a look at whether a daemon answers."""

# States of a node that takes jobs, as `sinfo --format %t` has them; what does not respond has a `*`.
USABLE = {"idle", "mix", "alloc", "comp"}


def _silent(_: str) -> None:
    """No progress is shown."""


class Cluster:
    """The daemons of one cluster, each to be killed and revived by name.

    Their names: munged, mariadbd and slurmdbd (with accounting), slurmctld, slurmd-n1 and so on, sshd.
    """

    def __init__(self, config: Config) -> None:
        self.config = config
        self.directory = config.directory
        self.user = config.knobs.user
        self.conf = self.directory / "etc" / "slurm.conf"
        self.log_directory = self.directory / "log"
        self.bin = self.directory / "bin"
        """First on the PATH of daemons, jobs and SSH sessions: a place for stand-ins."""
        self.ssh_port = config.ssh_port
        self.ssh_key = self.directory / "ssh" / "client"
        self.known_hosts = self.directory / "ssh" / "known_hosts"
        self.environment = {
            "SLURM_CONF": str(self.conf),
            "PATH": f"{self.bin}:{os.environ.get('PATH', PATH)}",
        }
        """What a client of the cluster needs on top of its own environment."""
        self.daemons = {daemon.name: daemon for daemon in self._daemons()}

    # -- life ----------------------------------------------------------------------------------

    @classmethod
    def start(cls, directory: Path, *, progress: Callable[[str], None] = _silent, **knobs: Any) -> "Cluster":
        """Start what does not run of the directory's cluster; what it knew before it still knows.

        Knobs are those of `config.Knobs`. Raises NotInstalled, and ClusterError with a daemon's last words
        (then nothing is left running).
        """
        if why_not := obstacle():
            raise NotInstalled(why_not)
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
    def load(cls, directory: Path) -> "Cluster":
        """The cluster that was started in the directory. Raises FileNotFoundError."""
        return cls(Config.load(directory.resolve()))

    def _start(self, progress: Callable[[str], None]) -> None:
        machine.need_way(self.directory, self.user, *(["mysql"] if self.config.knobs.accounting else []))
        keys.make_munge_key(self.directory / "etc" / "munge.key")
        keys.make_ssh_keys(self.directory / "ssh", self.ssh_port)
        if self.config.knobs.accounting:
            accounting.make_data(self.directory)
        for daemon in self.daemons.values():
            self.revive(daemon.name)
            self._follow_up(daemon.name)
            progress(daemon.name)

    def _follow_up(self, name: str) -> None:
        """What the daemons after this one count on."""
        if name == "mariadbd":
            accounting.make_database(self.config)
        elif name == "slurmdbd":
            self._let_submit()
        elif name == "slurmctld":
            self.resume()

    def _let_submit(self) -> None:
        known = self.run(
            "sacctmgr", "--noheader", "--parsable2", "show", "associations", "format=User"
        ).stdout
        if self.user not in known.split():
            for command in accounting.associations(self.user):
                self.run(*command)

    def stop(self, *, purge: bool = False) -> None:
        """End its jobs and daemons, and whatever they left behind; `purge` removes the directory, too."""
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
        """As far as that goes: what is left is killed later."""
        if self.pid("slurmctld") is None:
            return
        with suppress(subprocess.SubprocessError):
            for user in {"root", self.user}:
                self.run("scancel", f"--user={user}", timeout=CANCEL_SECONDS)

    def __enter__(self) -> "Cluster":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    # -- parts ---------------------------------------------------------------------------------

    def pid(self, name: str) -> int | None:
        """Of a daemon; None where it does not run."""
        return self.daemons[name].pid()

    def kill(self, name: str, number: signal.Signals = signal.SIGKILL) -> None:
        """Send a daemon a signal. After SIGKILL it is gone. Raises ClusterError where it does not run."""
        self.daemons[name].kill(number)

    def revive(self, name: str) -> None:
        """Start a daemon unless it runs, and wait until it answers. Raises ClusterError."""
        self.daemons[name].start()
        self.daemons[name].wait_ready()

    def resume(self) -> None:
        """Let drained nodes take jobs again: a controller that was killed may give an id out twice,
        and drains the node that sees it."""
        if drained := self.run("sinfo", "--noheader", "--states=drain", "--format=%N").stdout.split():
            self.run("scontrol", "update", f"NodeName={drained[0]}", "State=RESUME")

    def run(
        self, *command: str, user: str | None = None, stdin: str = "", timeout: float = COMMAND_SECONDS
    ) -> "subprocess.CompletedProcess[str]":
        """A client's command, run by the user (or by whoever asks).

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
            self.run(*command, timeout=SHORT_SECONDS)
        except subprocess.SubprocessError:
            return False
        return True

    # -- what it is made of, in the order of starting ------------------------------------------

    def _daemons(self) -> list[Daemon]:
        knobs = self.config.knobs
        return [
            self._munged(),
            *([self._mariadbd(), self._slurmdbd()] if knobs.accounting else []),
            self._slurmctld(),
            *(self._slurmd(number) for number in range(1, knobs.nodes + 1)),
            *([self._sshd()] if knobs.ssh else []),
        ]

    def _daemon(self, name: str, command: list[str], answers: Callable[[], bool]) -> Daemon:
        environment = {"SLURM_CONF": str(self.conf), "PATH": f"{self.bin}:{PATH}", "LC_ALL": "C.UTF-8"}
        path = find(command[0]) or command[0]
        return Daemon(name, [path, *command[1:]], self.directory, environment, answers)

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
        return self._daemon("mariadbd", command, lambda: accounting.answers(self.directory))

    def _slurmdbd(self) -> Daemon:
        command = ["slurmdbd", "-D"]  # it finds its slurmdbd.conf next to SLURM_CONF
        return self._daemon("slurmdbd", command, lambda: self._succeeds("sacctmgr", "-n", "list", "cluster"))

    def _slurmctld(self) -> Daemon:
        command = ["slurmctld", "-D", "-f", str(self.conf)]
        return self._daemon("slurmctld", command, lambda: self._succeeds("sinfo", "--noheader"))

    def _slurmd(self, number: int) -> Daemon:
        node = f"n{number}"
        command = ["slurmd", "-D", "-N", node, "-f", str(self.conf)]
        return self._daemon(f"slurmd-{node}", command, lambda: self._takes_jobs(number))

    def _takes_jobs(self, number: int) -> bool:
        if not listens(self.config.slurmd_port(number)):
            return False
        with suppress(subprocess.SubprocessError):
            asked = ("sinfo", "--noheader", f"--nodes=n{number}", "--partition=main", "--format=%t")
            return self.run(*asked, timeout=SHORT_SECONDS).stdout.strip() in USABLE
        return False

    def _sshd(self) -> Daemon:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # it does not start without
        command = ["sshd", "-D", "-e", "-f", str(self.directory / "etc" / "sshd_config")]
        return self._daemon("sshd", command, lambda: listens(self.ssh_port, b"SSH-"))
