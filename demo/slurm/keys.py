"""Keys of a cluster: munge's, sshd's, and the one that clients log in with."""

import os
import shutil
import subprocess
from pathlib import Path

COMMAND_SECONDS = 30
MUNGE_KEY_BYTES = 1024


def make_munge_key(path: Path) -> None:
    """Once: what it has signed stays valid over a restart."""
    if not path.exists():
        path.touch(mode=0o600)
        path.write_bytes(os.urandom(MUNGE_KEY_BYTES))


def make_ssh_keys(directory: Path, port: int) -> None:
    """`host`, `client`, and what each side has to know of the other."""
    for name in ("host", "client"):
        if not (directory / name).exists():
            command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(directory / name)]
            subprocess.run(command, check=True, timeout=COMMAND_SECONDS)
    shutil.copyfile(directory / "client.pub", directory / "authorized_keys")
    kind, key, *_ = (directory / "host.pub").read_text().split()
    (directory / "known_hosts").write_text(f"[127.0.0.1]:{port} {kind} {key}\n")
