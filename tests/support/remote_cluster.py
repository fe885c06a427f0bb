"""A cluster over SSH whose files the service accesses only remotely. It has no Slurm."""

import json
import sys
from pathlib import Path
from typing import Any

from tests.support.process import forget_settings
from tests.support.sshd import Sshd


def write_profiles(data_dir: Path, server: Sshd, **changed: Any) -> None:
    """Write the cluster `far` with changes (None removes a key), and `near` with the same roots."""
    far = {
        "executor": "slurm",
        "tunnel": "ssh",
        "host": "127.0.0.1",
        "user": server.user,
        "port": server.port,
        "identity": str(server.identity),
        "known_hosts": str(server.known_hosts),
        "remote_job_dir": str(data_dir / "remote"),
        "login_python": sys.executable,
        "roots": [str(data_dir / "inputs")],
    } | changed
    lines = [f"{name} = {json.dumps(value)}" for name, value in far.items() if value is not None]
    near = f"[near]\nroots = {json.dumps(far['roots'])}\n"
    (data_dir / "clusters.toml").write_text("\n".join(["[far]", *lines, near]))
    forget_settings()
