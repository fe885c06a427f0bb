"""Prepare the machine for a cluster: a host name that resolves, a user, access to the directory."""

import fcntl
import pwd
import socket
import subprocess
from pathlib import Path

from demo.slurm.config import host
from demo.slurm.daemons import ClusterError

COMMAND_SECONDS = 30


def prepare(user: str) -> None:
    """Create the user and the host name's entry if they are missing. A lock serializes concurrent starts."""
    with Path("/etc/hosts").open("a+") as hosts:
        fcntl.flock(hosts, fcntl.LOCK_EX)
        if not _resolves(host()):
            hosts.write(f"127.0.0.1 {host()}\n")
            hosts.flush()
        if not exists(user):
            # `*` is a password that nothing matches; sshd rejects accounts that are locked by `!`.
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


def require_access(directory: Path, *users: str) -> None:
    """Check access to the directory. Raises ClusterError if one of the users cannot enter it."""
    for user in users:
        command = ["runuser", "-u", user, "--", "test", "-x", str(directory)]
        if subprocess.run(command, timeout=COMMAND_SECONDS, check=False).returncode:
            raise ClusterError(
                f"{user} cannot enter {directory}: give everyone search permission (chmod o+x) "
                "for each directory above it, or choose another directory."
            )
