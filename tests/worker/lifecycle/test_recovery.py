"""How often a job recovers by itself."""

import pytest

from tests.support.process import forget_settings
from worker.clock import utcnow
from worker.db.models import Attempt, Checkpoint, Job, Origin
from worker.db.session import writing
from worker.lifecycle import recovery
from worker.states import JobState

R, C = Origin.RECOVERED, Origin.CREATED


@pytest.fixture
def job(job_in, data_dir, environment) -> Job:  # type: ignore[no-untyped-def]
    (data_dir / "clusters.toml").write_text(f'[local]\nmax_recoveries = 2\nroots = ["{data_dir}/inputs"]\n')
    forget_settings()
    made: Job = job_in(JobState.FINALIZING)
    return made


@pytest.mark.parametrize(
    ("origins", "saved_in", "expected"),
    [
        ([C], None, False),
        ([C, R], None, False),
        ([C, R, R], None, True),
        ([C, R, Origin.REQUEUED], None, True),
        ([C, R, R], 3, False),  # a checkpoint refills
        ([C, R, R], 2, False),
        ([C, R, R, R], 2, True),
        ([C, R, R, Origin.RETRIED], None, False),  # so does a client's resume
        ([C, R, R, Origin.RESUMED, R], None, False),
    ],
)
def test_the_budget_counts_what_was_in_vain(
    job: Job, origins: list[Origin], saved_in: int | None, expected: bool
) -> None:
    with writing() as session:
        for number, origin in enumerate(origins[1:], start=2):
            session.add(Attempt(job_id=job.id, number=number, origin=origin.value))
        if saved_in:
            facts = {"iteration": 1, "path": "/x", "bytes": 1, "files": [], "saved_at": utcnow()}
            session.add(Checkpoint(job_id=job.id, attempt=saved_in, **facts))
    assert recovery.limit_is_reached(job) is expected
