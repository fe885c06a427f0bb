"""A Slurm for the tests of a process, and a service on it for those of a module."""

import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from demo.slurm.cluster import Cluster
from demo.slurm.install import obstacle
from tests.slurm.parts import SlurmService, start_service


@pytest.fixture(scope="session")
def slurm() -> Iterator[Cluster]:
    """A running cluster; where none can be had the tests are skipped, and in CI that is a failure."""
    if why := obstacle():
        (pytest.fail if "CI" in os.environ else pytest.skip)(f"no Slurm can be started here: {why}")
    # Not below pytest's directories: the daemons' users have to get into it.
    with TemporaryDirectory(prefix="sft-slurm-") as directory:
        Path(directory).chmod(0o755)
        with Cluster.start(Path(directory)) as cluster:
            yield cluster


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
    slurm: Cluster, secret_file: Path, tmp_path_factory: pytest.TempPathFactory, stand_in: Path
) -> Iterator[SlurmService]:
    """A service for the tests of a module, with runs that take milliseconds."""
    with start_service(slurm, tmp_path_factory.mktemp("on_slurm"), stand_in, secret_file) as running:
        yield running
        slurm.run("scancel", "--user=root")
