"""Keys of a cluster: for munge, for sshd, and for clients to log in."""

import os
import shutil
import subprocess
from pathlib import Path

COMMAND_SECONDS = 30
MUNGE_KEY_BYTES = 1024


def make_munge_key(path: Path) -> None:
    """Write munge's key unless it exists: credentials stay valid across restarts."""
    if not path.exists():
        path.touch(mode=0o600)
        path.write_bytes(os.urandom(MUNGE_KEY_BYTES))


def make_ssh_keys(directory: Path, port: int) -> None:
    """Write the key pairs `host` and `client`, authorized_keys and known_hosts."""
    for name in ("host", "client"):
        if not (directory / name).exists():
            command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(directory / name)]
            subprocess.run(command, check=True, timeout=COMMAND_SECONDS)
    shutil.copyfile(directory / "client.pub", directory / "authorized_keys")
    kind, key, *_ = (directory / "host.pub").read_text().split()
    (directory / "known_hosts").write_text(f"[127.0.0.1]:{port} {kind} {key}\n")
