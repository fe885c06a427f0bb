"""Programs that play clients live in an environment of their own: they know nothing of ours."""

from pathlib import Path

import pytest

from tests.support.environments import made
from tests.support.trainer_runs import PROJECT


@pytest.fixture(scope="module")
def client_bin() -> Path:
    """Where the programs are: a client generator, and schemathesis."""
    return made(".venv-client", PROJECT / "requirements" / "client.txt")
