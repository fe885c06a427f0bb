"""A cluster without accounting that soon forgets ended jobs: the run's end marker tells its end."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from demo.slurm.cluster import DemoSlurm
from tests.support.slurm_service import SlurmService, miss_the_end, start_service, wait_for_forgetting
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def forgetful() -> Iterator[DemoSlurm]:
    from tests.support.slurm_service import new_directory

    with DemoSlurm.start(new_directory(), accounting=False, min_job_age_seconds=2) as cluster:
        yield cluster


@pytest.fixture
def on_forgetful(
    forgetful: DemoSlurm, tmp_path: Path, stand_in: Path, secret_file: Path
) -> Iterator[SlurmService]:
    with start_service(forgetful, tmp_path, stand_in, secret_file) as service:
        yield service


def test_a_forgotten_run_with_an_end_marker_has_succeeded(on_forgetful: SlurmService, stand_in: Path) -> None:
    job_id = miss_the_end(on_forgetful, "wait", stand_in)
    with on_forgetful.again() as service:
        assert service.wait_for(job_id)["state"] == "SUCCEEDED"


def test_a_forgotten_run_without_an_end_marker_is_lost(on_forgetful: SlurmService, stand_in: Path) -> None:
    job_id = miss_the_end(on_forgetful, "hold", stand_in)
    with on_forgetful.again() as service:
        job = service.wait_for(job_id)
    assert (job["state"], job["failure"]["class"]) == ("LOST", "unknown")
    assert "left no end marker" in job["state_reason"]["message"] + job["failure"]["cause"]


def test_a_run_requeued_while_no_service_runs_has_its_own_end(on_forgetful: SlurmService) -> None:
    job = on_forgetful.run_until(4, "wait")
    on_forgetful.stop()
    on_forgetful.slurm.run("scontrol", "requeue", job["backend"]["external_id"])
    wait_until(lambda: on_forgetful.starts(job["id"]) == ["1", "2"], 60, "the second start")
    (on_forgetful.directory(job["id"], 2) / "go").touch()
    wait_for_forgetting(on_forgetful)
    with on_forgetful.again() as service:
        ended = service.wait_for(job["id"])
    assert (ended["state"], ended["attempt"]) == ("SUCCEEDED", 2)


def test_a_requeued_run_that_is_lost_is_not_started_a_third_time(on_forgetful: SlurmService) -> None:
    job = on_forgetful.run_until(4)
    on_forgetful.slurm.run("scontrol", "requeue", job["backend"]["external_id"])
    on_forgetful.wait_for_step(job["id"], 4, attempt=2)
    lose_state(on_forgetful)
    ended = on_forgetful.wait_for(job["id"])
    assert (ended["state"], ended["attempt"]) == ("LOST", 2)
    assert on_forgetful.starts(job["id"]) == ["1", "2"]


def test_a_requeued_job_that_is_lost_blocks_no_other_job(on_forgetful: SlurmService) -> None:
    job = on_forgetful.run_until(4)
    on_forgetful.slurm.run("scontrol", "requeuehold", job["backend"]["external_id"])
    wait_until(lambda: on_forgetful.job(job["id"])["attempt"] == 2, 60, "the second attempt")
    lose_state(on_forgetful)
    other = on_forgetful.submit(on_forgetful.body())
    assert on_forgetful.wait_for(other["id"])["state"] == "SUCCEEDED"
    on_forgetful.wait_for_step(job["id"], 4, attempt=3)
    assert on_forgetful.starts(job["id"]) == ["1", "3"]


def lose_state(service: SlurmService) -> None:
    """Restart the controller without its jobs."""
    service.slurm.kill("slurmctld")
    for file in service.slurm.directory.rglob("job_state*"):
        file.unlink()
    service.slurm.revive("slurmctld")
    service.slurm.resume()
