"""A cluster that accepts jobs that can never run, and soon forgets jobs, so that accounting is needed."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from demo.slurm.cluster import DemoSlurm
from tests.support.slurm_service import SlurmService, miss_the_end, start_service
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def lenient() -> Iterator[DemoSlurm]:
    from tests.support.slurm_service import new_directory

    with DemoSlurm.start(new_directory(), min_job_age_seconds=2, enforce_part_limits="NO") as cluster:
        yield cluster


@pytest.fixture
def on_lenient(
    lenient: DemoSlurm, tmp_path: Path, stand_in: Path, secret_file: Path
) -> Iterator[SlurmService]:
    with start_service(lenient, tmp_path, stand_in, secret_file) as service:
        yield service
    lenient.run("scancel", "--user=root")


@pytest.mark.parametrize(("cluster", "nodes"), [("too-long", 1), ("near", 8)])
def test_a_job_that_can_never_run_is_reported(on_lenient: SlurmService, cluster: str, nodes: int) -> None:
    job_id = on_lenient.submit(on_lenient.body(cluster=cluster, resources={"nodes": nodes}))["id"]
    job = wait_until(lambda: never_runs(on_lenient, job_id), what="the reason")
    assert job["queue"]["reason"].startswith("Can never run as submitted: It requests ")
    on_lenient.ask(job_id, "cancel")
    assert on_lenient.wait_for(job_id)["state"] == "CANCELLED"


def never_runs(service: SlurmService, job_id: str) -> dict[str, Any] | None:
    job = service.job(job_id)
    return job if job["state_reason"] and job["state_reason"]["code"] == "never_runs" else None


def test_accounting_tells_the_end_of_a_forgotten_job(on_lenient: SlurmService, stand_in: Path) -> None:
    job_id = miss_the_end(on_lenient, "hold", stand_in)
    with on_lenient.again() as service:
        job = service.wait_for(job_id)
    assert job["state"] == "CANCELLED"
    assert f"{job_id}.1 CANCELLED by" in job["state_reason"]["raw"]


def test_a_forgotten_job_is_not_lost_while_accounting_is_down(
    on_lenient: SlurmService, stand_in: Path
) -> None:
    on_lenient.slurm.kill("slurmdbd")
    job_id = miss_the_end(on_lenient, "hold", stand_in)
    # Long enough for slurmctld to send its records to the restarted slurmdbd, which takes a while.
    with on_lenient.again(SFT_LOST_AFTER_SECONDS="25") as service:
        wait_until(lambda: service.job(job_id)["stale"], 90, "a stale job")
        assert service.job(job_id)["state"] == "RUNNING"
        on_lenient.slurm.revive("slurmdbd")
        assert service.wait_for(job_id, timeout=180)["state"] == "CANCELLED"
