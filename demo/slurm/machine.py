"""What a cluster needs of the machine: a name that resolves, a user, ways into its directory."""

import fcntl
import pwd
import socket
import subprocess
from pathlib import Path

from demo.slurm.config import host
from demo.slurm.daemons import ClusterError

COMMAND_SECONDS = 30


def prepare(user: str) -> None:
    """Make the user and the name's entry where they are missing. Processes that start at once take turns."""
    with Path("/etc/hosts").open("a+") as hosts:
        fcntl.flock(hosts, fcntl.LOCK_EX)
        if not _resolves(host()):
            hosts.write(f"127.0.0.1 {host()}\n")
            hosts.flush()
        if not exists(user):
            # The password is one that nothing matches; sshd refuses accounts that are locked by `!`.
            command = ["useradd", "--create-home", "--shell", "/bin/bash", "--password", "*", user]
            subprocess.run(command, check=True, timeout=COMMAND_SECONDS)


def _resolves(name: str) -> bool:
    try:
        socket.gethostbyname(name)
    except OSError:
        return False
    return True


def exists(user: str) -> bool:
    try:
        pwd.getpwnam(user)
    except KeyError:
        return False
    return True


def need_way(directory: Path, *users: str) -> None:
    """Raises ClusterError where one of the users cannot get into the directory."""
    for user in users:
        command = ["runuser", "-u", user, "--", "test", "-x", str(directory)]
        if subprocess.run(command, timeout=COMMAND_SECONDS, check=False).returncode:
            raise ClusterError(
                f"{user} cannot get into {directory}: give everyone the right to pass (chmod o+x) "
                "to each directory above it, or choose another."
            )
