"""A cluster without accounting that soon forgets what has ended: what the run left says how it ended."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from demo.slurm.cluster import Cluster
from tests.slurm.parts import SlurmService, start_service
from tests.waiting import wait_until

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def forgetful() -> Iterator[Cluster]:
    from tests.slurm.conftest import new_directory

    with Cluster.start(new_directory(), accounting=False, min_job_age_seconds=2) as cluster:
        yield cluster


@pytest.fixture
def on_forgetful(
    forgetful: Cluster, tmp_path: Path, stand_in: Path, secret_file: Path
) -> Iterator[SlurmService]:
    with start_service(forgetful, tmp_path, stand_in, secret_file) as service:
        yield service


def miss_the_end(service: SlurmService, mode: str, stand_in: Path) -> str:
    """A run that ends, and is forgotten, while no service is there; its id."""
    job_id = service.run_until(4, mode)["id"]
    service.stop()
    if mode == "wait":
        (service.directory(job_id) / "go").touch()
    else:
        external_id = (service.directory(job_id) / "external_id").read_text().strip()
        service.slurm.run("scancel", "--signal=KILL", "--full", external_id)
    wait_until(
        lambda: service.slurm.run("squeue", "--noheader", "--states=all").stdout.strip() == "",
        120,
        "the cluster to forget",
    )
    return job_id


def test_a_run_that_finished_and_was_forgotten_has_succeeded(
    on_forgetful: SlurmService, stand_in: Path
) -> None:
    job_id = miss_the_end(on_forgetful, "wait", stand_in)
    with on_forgetful.again() as service:
        assert service.wait_for(job_id)["state"] == "SUCCEEDED"


def test_a_run_that_left_no_word_and_was_forgotten_is_lost(
    on_forgetful: SlurmService, stand_in: Path
) -> None:
    job_id = miss_the_end(on_forgetful, "hold", stand_in)
    with on_forgetful.again() as service:
        job = service.wait_for(job_id)
    assert (job["state"], job["failure"]["class"]) == ("LOST", "unknown")
    assert "left no end marker" in job["state_reason"]["message"] + job["failure"]["cause"]
