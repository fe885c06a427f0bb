"""A Slurm cluster for each test process, and a service on it for each module."""

import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest

from demo.slurm.cluster import DemoSlurm
from tests.support.slurm_service import SlurmService, new_directory, start_service


@pytest.fixture
def cluster_directory() -> Path:
    """Directory of a cluster that a test starts itself."""
    return new_directory()


@pytest.fixture(scope="session")
def slurm(request: pytest.FixtureRequest) -> Iterator[DemoSlurm]:
    """A cluster of two nodes for all tests of this process. Its logs are kept if a test failed."""
    cluster = DemoSlurm.start(new_directory())
    yield cluster
    cluster.stop(purge=not request.session.testsfailed)


@pytest.fixture(scope="session")
def canary() -> str:
    """The value of the secret `team-hf`."""
    return f"canary-{secrets.token_hex(8)}"


@pytest.fixture(scope="session")
def secret_file(tmp_path_factory: pytest.TempPathFactory, canary: str) -> Path:
    path = tmp_path_factory.mktemp("secrets") / "team-hf.secret"
    path.write_text(f"{canary}\n")
    return path


@pytest.fixture(scope="module")
def on_slurm(
    slurm: DemoSlurm, secret_file: Path, tmp_path_factory: pytest.TempPathFactory, stand_in: Path
) -> Iterator[SlurmService]:
    """A service for the tests of a module, with runs that take milliseconds."""
    with start_service(slurm, tmp_path_factory.mktemp("on_slurm"), stand_in, secret_file) as running:
        yield running
        slurm.run("scancel", "--user=root")
