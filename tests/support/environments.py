"""Environments of other programs: built once, and rebuilt when their requirements change."""

import subprocess
import sys
from pathlib import Path

from tests.support.trainer_runs import PROJECT, locked


def made(name: str, requirements: Path) -> Path:
    """Build the environment PROJECT/name if necessary, and return the directory of its programs."""
    environment = PROJECT / name
    done = environment / ".done"
    with locked(PROJECT / f"{name}.lock"):
        if not done.exists() or done.read_text() != requirements.read_text():
            uv = str(Path(sys.executable).with_name("uv"))
            venv = [uv, "venv", "--quiet", "--clear", "--python", sys.executable, str(environment)]
            install = [uv, "pip", "install", "--quiet", "--python", str(environment / "bin/python")]
            subprocess.run(venv, check=True, timeout=60)
            subprocess.run([*install, "-r", str(requirements)], check=True, timeout=280)
            done.write_text(requirements.read_text())
    return environment / "bin"
