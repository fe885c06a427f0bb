"""Client programs run in their own environment, without the project's packages."""

from pathlib import Path

import pytest

from tests.support.environments import made
from tests.support.trainer_runs import PROJECT


@pytest.fixture(scope="module")
def client_bin() -> Path:
    """Return the directory of the programs: a client generator, and schemathesis."""
    return made(".venv-client", PROJECT / "requirements" / "client.txt")
