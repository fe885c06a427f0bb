"""A real sshd on a free loopback port, with its own keys, for the user that runs the tests."""

import getpass
import os
import shutil
import signal
import socket
import subprocess
import tempfile
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from tests.support.waiting import wait_until


def need_sshd() -> str:
    """Return the absolute path of sshd, which it must be started by; without sshd skip the test."""
    found = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if found and shutil.which("ssh-keygen"):
        return found
    if os.environ.get("CI"):
        pytest.fail("There is no sshd: install openssh-server.")
    pytest.skip("There is no sshd; Debian has it in openssh-server.")


class Sshd:
    """A server that can be stopped, suspended, restarted, and given another key."""

    def __init__(self, directory: Path) -> None:
        self.sshd = need_sshd()
        self.directory = directory
        self.user = getpass.getuser()
        self.port = _free_port()
        self.identity = make_key(directory / "identity")
        self.known_hosts = directory / "known_hosts"
        shutil.copy(directory / "identity.pub", directory / "authorized_keys")
        self.new_host_key()
        self.know(self.directory / "host_key.pub")
        self.process: subprocess.Popen[bytes] | None = None

    def new_host_key(self, kind: str = "ed25519") -> None:
        make_key(self.directory / "host_key", kind)

    def know(self, public_key: Path) -> None:
        kind, key, *_ = public_key.read_text().split()
        self.known_hosts.write_text(f"[127.0.0.1]:{self.port} {kind} {key}\n")

    def start(self) -> None:
        config = self.directory / "sshd_config"
        config.write_text(
            f"ListenAddress 127.0.0.1:{self.port}\n"
            f"HostKey {self.directory / 'host_key'}\n"
            f"AuthorizedKeysFile {self.directory / 'authorized_keys'}\n"
            f"PidFile {self.directory / 'sshd.pid'}\n"
            "UsePAM no\nStrictModes no\nPasswordAuthentication no\nPermitRootLogin prohibit-password\n"
            "Subsystem sftp internal-sftp\n"
            # A home without login files, which can take unlimited time; and the mark of the test session.
            f"SetEnv HOME={self.directory} TMPDIR={tempfile.gettempdir()}\n"
        )
        if os.geteuid() == 0:
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # as root sshd does not start without it
        with (self.directory / "sshd.log").open("ab") as log:
            self.process = subprocess.Popen(
                [self.sshd, "-D", "-e", "-f", str(config)], stdin=subprocess.DEVNULL, stderr=log
            )
        wait_until(self._responds, what=f"sshd: {(self.directory / 'sshd.log').read_text()}")

    def _responds(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, (self.directory / "sshd.log").read_text()
        try:
            with socket.create_connection(("127.0.0.1", self.port), 1) as connected:
                return connected.recv(4) == b"SSH-"
        except OSError:
            return False

    def sessions(self) -> list[psutil.Process]:
        """Return the processes that serve connections, not their commands."""
        assert self.process is not None
        children = psutil.Process(self.process.pid).children(recursive=True)
        return [child for child in children if _name(child).startswith("sshd")]

    def connections(self) -> int:
        """Return the number of established connections of this process's side."""
        return sum(
            found.status == psutil.CONN_ESTABLISHED and bool(found.raddr) and found.raddr.port == self.port
            for found in psutil.Process().net_connections("tcp")
        )

    def signal_sessions(self, number: signal.Signals) -> None:
        for session in self.sessions():
            with suppress(psutil.NoSuchProcess):
                session.send_signal(number)

    def stop(self) -> None:
        """Stop sshd and its connections."""
        if self.process is None:
            return
        try:
            sessions = self.sessions()
            self.signal_sessions(signal.SIGKILL)
            psutil.wait_procs(sessions, timeout=10)  # their parent must still run to reap them
        finally:
            self.process.kill()
            self.process.wait(10)
            self.process = None


def _name(process: psutil.Process) -> str:
    try:
        return process.name()
    except psutil.NoSuchProcess:
        return ""


def make_key(path: Path, kind: str = "ed25519") -> Path:
    """Make a key pair and return the private key's path; the public key is next to it."""
    for old in (path, path.with_name(path.name + ".pub")):
        old.unlink(missing_ok=True)
    subprocess.run(["ssh-keygen", "-q", "-t", kind, "-N", "", "-f", str(path)], check=True, timeout=30)
    return path


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])
