"""The configuration of a cluster, and the files that its daemons read."""

import json
import random
import secrets
import socket
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from string import Template

from demo.slurm.install import PATH

TEMPLATES = Path(__file__).parent / "templates"

# Below the kernel's ephemeral ports (ip_local_port_range).
PORTS = range(10_000, 26_000)
FIRST_NODE_PORT = 4
"""Offset after the ports of slurmctld, slurmdbd, mariadbd and sshd."""


@dataclass(frozen=True, kw_only=True)
class Knobs:
    """Options of a cluster."""

    nodes: int = 2
    gpus: int = 8
    """Per node."""
    cpus: int = 16
    """Per node."""
    memory_mb: int = 65536
    """Per node."""
    accounting: bool = True
    """Run slurmdbd on its own database, with an account `test` for root and the user."""
    ssh: bool = True
    user: str = "slurmtest"
    """Owner of the jobs; created if it does not exist."""
    min_job_age_seconds: int = 300
    """squeue drops ended jobs after this time."""
    max_jobs: int = 20_000
    enforce_part_limits: str = "ALL"
    """NO: Slurm accepts jobs that can never run."""
    slurmd_timeout_seconds: int = 10
    """A node that does not respond for this time is down."""
    message_timeout_seconds: int = 10
    kill_wait_seconds: int = 3
    """Time between SIGTERM and SIGKILL of a job."""
    extra_conf: str = ""
    """Additional lines for slurm.conf."""


@dataclass(frozen=True)
class Config:
    """The files of a cluster in one directory."""

    directory: Path
    knobs: Knobs
    first_port: int
    password: str = field(repr=False)
    """Password of slurmdbd for its database."""

    @classmethod
    def make(cls, directory: Path, knobs: Knobs) -> "Config":
        """Write and return the directory's config with these knobs; ports and password are chosen once."""
        first_port, password = free_ports(FIRST_NODE_PORT + knobs.nodes), secrets.token_hex(16)
        with suppress(FileNotFoundError):
            before = cls.load(directory)
            if before.knobs.nodes >= knobs.nodes:
                first_port, password = before.first_port, before.password
        made = cls(directory, knobs, first_port, password)
        made.write()
        return made

    @classmethod
    def load(cls, directory: Path) -> "Config":
        """Read a directory's config. Raises FileNotFoundError if no cluster was started in the directory."""
        saved = json.loads((directory / "cluster.json").read_text())
        return cls(directory, Knobs(**saved["knobs"]), saved["first_port"], saved["password"])

    @property
    def slurmctld_port(self) -> int:
        return self.first_port

    @property
    def slurmdbd_port(self) -> int:
        return self.first_port + 1

    @property
    def mariadb_port(self) -> int:
        return self.first_port + 2

    @property
    def ssh_port(self) -> int:
        return self.first_port + 3

    def slurmd_port(self, number: int) -> int:
        """Return the port of the node with this number; the first is 1."""
        return self.first_port + FIRST_NODE_PORT + number - 1

    def write(self) -> None:
        """Write all directories and files."""
        for name in ("bin", "dev", "etc", "home", "log", "munge", "run", "spool", "ssh", "state/env_cache"):
            (self.directory / name).mkdir(mode=0o755, parents=True, exist_ok=True)
        for number in range(1, self.knobs.nodes + 1):
            (self.directory / "spool" / f"n{number}").mkdir(exist_ok=True)
        for number in range(self.knobs.gpus):
            with suppress(FileExistsError):  # without a character device there is no CUDA_VISIBLE_DEVICES
                (self.directory / "dev" / f"gpu{number}").symlink_to("/dev/null")
        saved = {"knobs": asdict(self.knobs), "first_port": self.first_port, "password": self.password}
        _write(self.directory / "cluster.json", json.dumps(saved, indent=2), mode=0o600)
        _write(self.directory / "etc" / "slurmdbd.conf", self._filled("slurmdbd.conf"), mode=0o600)
        for name in ("slurm.conf", "gres.conf", "cgroup.conf", "sshd_config"):
            _write(self.directory / "etc" / name, self._filled(name))
        for user in ("root", self.knobs.user):
            _write(self.directory / "state" / "env_cache" / user, self._filled("environment"))

    def _filled(self, template: str) -> str:
        text = Template((TEMPLATES / template).read_text())
        accounting = "AccountingStorageType=accounting_storage/none"
        if self.knobs.accounting and template == "slurm.conf":
            accounting = self._filled("accounting.conf")
        return text.substitute(
            asdict(self.knobs),
            directory=self.directory,
            host=host(),
            path=f"{self.directory / 'bin'}:{PATH}",
            accounting=accounting,
            password=self.password,
            last_gpu=self.knobs.gpus - 1,
            slurmctld_port=self.slurmctld_port,
            slurmdbd_port=self.slurmdbd_port,
            mariadb_port=self.mariadb_port,
            ssh_port=self.ssh_port,
            slurmd_ports=f"{self.slurmd_port(1)}-{self.slurmd_port(self.knobs.nodes)}",
        )


def host() -> str:
    """Return this machine's short name, which Slurm's daemons use."""
    return socket.gethostname().partition(".")[0]


def free_ports(number: int) -> int:
    """Return the first of `number` consecutive free ports; a random start avoids collisions of callers."""
    while True:
        first = random.randrange(PORTS.start, PORTS.stop - number)  # noqa: S311
        with suppress(OSError), ExitStack() as servers:
            for port in range(first, first + number):
                servers.enter_context(socket.create_server(("127.0.0.1", port)))
            return first


def _write(path: Path, text: str, mode: int = 0o644) -> None:
    """Write a file that never has more permissions than `mode`."""
    path.touch(mode)
    path.chmod(mode)
    path.write_text(text)
