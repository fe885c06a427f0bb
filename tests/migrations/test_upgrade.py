"""An older service is upgraded with jobs in every state, and continues them."""

from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import MetaData, create_engine

from tests.support.inputs import make_inputs
from tests.support.process import forget_settings
from tests.support.service import Service
from tests.support.stand_in.control import with_mode
from worker.auth import keys
from worker.auth.roles import Caller, Role
from worker.backends.connect import connect
from worker.clock import utcnow
from worker.clusters.registry import cluster
from worker.db import migrate
from worker.db.models import ApiKey, Attempt
from worker.jobs import queries
from worker.jobs.create import new_job
from worker.jobs.idempotency import RequestKey
from worker.planning.spec import JobSpec
from worker.states import JobState, S

pytestmark = pytest.mark.slow

# The final state of a job that was in this state during the upgrade. PAUSING, PAUSED and RECOVERING
# did not exist in the first version.
BECOMES = {
    S.VALIDATING: S.SUCCEEDED,
    S.SUBMITTING: S.SUCCEEDED,
    S.QUEUED: S.SUCCEEDED,
    S.STARTING: S.SUCCEEDED,
    S.RUNNING: S.SUCCEEDED,
    S.FINALIZING: S.SUCCEEDED,
    S.CANCELLING: S.CANCELLED,
    S.SUCCEEDED: S.SUCCEEDED,
    S.FAILED: S.FAILED,
    S.CANCELLED: S.CANCELLED,
    S.LOST: S.LOST,
}
NOT_YET_SUBMITTED = (S.VALIDATING, S.SUBMITTING)


class OldDatabase:
    """A database of the first migration, written without the current models."""

    def __init__(self, url: str) -> None:
        migrate.upgrade(url, "0001")
        self.engine = create_engine(url)
        self.metadata = MetaData()
        self.metadata.reflect(self.engine)

    def add(self, table: str, **values: Any) -> None:
        columns = self.metadata.tables[table].columns.keys()
        with self.engine.begin() as connection:
            row = {name: value for name, value in values.items() if name in columns}
            connection.execute(self.metadata.tables[table].insert().values(row))


@pytest.fixture
def old(data_dir: Path, tmp_path: Path, environment: pytest.MonkeyPatch) -> OldDatabase:
    """Return a database of the first version. What makes jobs here asks one of today's for limits."""
    (data_dir / "clusters.toml").write_text(f'[local]\nmax_running = 9\nroots = ["{data_dir}/inputs"]\n')
    todays = f"sqlite:///{tmp_path / 'todays.db'}"
    environment.setenv("SFT_DATABASE_URL", todays)
    forget_settings()
    migrate.upgrade(todays)
    return OldDatabase(f"sqlite:///{data_dir / 'sft.db'}")


def test_jobs_in_every_state_continue(old: OldDatabase, data_dir: Path, stand_in: Path) -> None:
    anna = Caller("anna", "team", Role.SUBMITTER)
    made = {state: _stored(old, data_dir, anna, state) for state in BECOMES}
    secret = "sft_from-before"
    key = ApiKey(name="anna", key_hash=keys._hash(secret), role="submitter", project="team")
    old.add("api_key", **_values(key))
    body = make_inputs(data_dir)
    spec_hash = RequestKey.of(JobSpec(**body), anna, "one").body_hash
    first = {"owner": "anna", "key": "one", "body_hash": spec_hash, "job_id": made[S.SUCCEEDED]}
    old.add("idempotency_key", **first, response={"id": 1}, created_at=utcnow())
    old.engine.dispose()

    with Service(data_dir, SFT_TRAINER_PYTHON=str(stand_in)) as service:
        for state, job_id in made.items():
            assert service.wait_for(job_id, BECOMES[state])["state"] == BECOMES[state], state
        service.client.headers["Authorization"] = f"Bearer {secret}"
        assert service.client.get("/v1/whoami").json()["name"] == "anna"
        replay = service.client.post("/v1/jobs", json=body, headers={"Idempotency-Key": "one"})
        assert (replay.status_code, replay.json()) == (201, {"id": 1})


def _stored(old: OldDatabase, data_dir: Path, owner: Caller, state: JobState) -> str:
    """Store a job in a state, with its run if the state has one."""
    body = make_inputs(data_dir)
    # A run that ends before the cancellation request reaches it would have succeeded.
    if state is S.CANCELLING:
        body = with_mode(body, "hold")
    job = new_job(JobSpec(**body), owner, owner.project)
    attempt = Attempt(job_id=job.id, number=1)
    if state not in NOT_YET_SUBMITTED:
        backend = connect(cluster(job.cluster))
        submission = backend.render(queries.run_of(job))
        attempt.external_id, attempt.directory = backend.submit(submission), submission.directory
    desired = "cancel" if state is S.CANCELLING else "run"
    old.add("job", **{**_values(job), "state": state.value, "desired_state": desired})
    old.add("attempt", **_values(attempt))
    return job.id


def _values(row: Any) -> dict[str, Any]:
    values: dict[str, Any] = row.model_dump()
    return values
