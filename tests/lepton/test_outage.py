"""A workspace that is unreachable for an hour of simulated time."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import time_machine

from tests.support.callers import ANNA
from tests.support.inputs import make_inputs
from tests.support.lepton.server.server import LeptonServer
from tests.support.lepton.service import profiles
from tests.support.stand_in.control import with_mode
from tests.support.waiting import wait_until
from worker.clusters import registry
from worker.db.models import Job
from worker.errors import BackendUnavailable
from worker.jobs import create, queries
from worker.jobs.queries import is_stale
from worker.lifecycle import ingest, reconcile, submit
from worker.planning.spec import JobSpec

pytestmark = pytest.mark.parametrize("database", ["sqlite"], indirect=True)
POLLS = 60


@pytest.fixture
def running(
    lepton: LeptonServer, database: str, data_dir: Path, stand_in: Path, environment: pytest.MonkeyPatch
) -> Job:
    """A job that runs and holds."""
    token = data_dir / "token"
    token.write_text(lepton.token)
    (data_dir / "clusters.toml").write_text(profiles(lepton, data_dir, stand_in, token, {}))
    registry.clusters.cache_clear()
    spec = JobSpec(**with_mode(make_inputs(data_dir), "wait", cluster="mounted"))
    created = create.create(spec, ANNA)
    submit.submit(created.job_id)
    wait_until(lambda: poll_and_ingest(created.job_id).state == "RUNNING", what="a running job")
    return queries.get(created.job_id)


def poll_and_ingest(job_id: str) -> Job:
    for one in reconcile.poll_cluster("mounted").to_ingest:
        ingest.ingest(one)
    return queries.get(job_id)


def test_a_job_is_stale_during_an_outage_and_recovers(lepton: LeptonServer, running: Job) -> None:
    lepton.faults.add("cut")
    begin = datetime.now(UTC)
    with time_machine.travel(begin, tick=True) as clock:
        for _ in range(POLLS):
            clock.shift(timedelta(minutes=1))
            with pytest.raises(BackendUnavailable):
                reconcile.poll_cluster("mounted")
            job = queries.get(running.id)
            assert (job.state, job.attempt, is_stale(job)) == ("RUNNING", 1, True)
        lepton.faults.lift()
        job = poll_and_ingest(running.id)
        assert (job.state, job.attempt, is_stale(job)) == ("RUNNING", 1, False)
        go(lepton, running)

        def ended() -> bool:
            clock.shift(timedelta(seconds=1))
            return bool(poll_and_ingest(running.id).state == "SUCCEEDED")

        wait_until(ended, what="its end")
    assert [one.body["metadata"]["id"] for one in lepton.workspace.created] == [f"{running.id}-1"]


def go(lepton: LeptonServer, job: Job) -> Any:
    (lepton.storage / "team" / "sft" / "jobs" / job.id / "attempts" / "1" / "go").touch()
