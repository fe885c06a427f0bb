"""Programs that play clients live in an environment of their own: they know nothing of ours."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.trainer_runs import PROJECT, locked

ENVIRONMENT = PROJECT / ".venv-client"
REQUIREMENTS = PROJECT / "requirements" / "client.txt"


@pytest.fixture(scope="module")
def client_bin() -> Path:
    """Where the programs are: a client generator, and schemathesis."""
    with locked(PROJECT / ".venv-client.lock"):
        if not _is_complete():
            uv = [str(Path(sys.executable).with_name("uv"))]
            subprocess.run(
                [*uv, "venv", "--quiet", "--clear", "--python", sys.executable, str(ENVIRONMENT)], check=True
            )
            install = [*uv, "pip", "install", "--quiet", "--python", str(ENVIRONMENT / "bin/python")]
            subprocess.run([*install, "-r", str(REQUIREMENTS)], check=True)
            (ENVIRONMENT / ".done").write_text(REQUIREMENTS.read_text())
    return ENVIRONMENT / "bin"


def _is_complete() -> bool:
    done = ENVIRONMENT / ".done"
    return done.exists() and done.read_text() == REQUIREMENTS.read_text()
