"""Jobs in a database of each kind, without anything that runs."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.callers import ANNA
from tests.support.inputs import make_inputs
from tests.support.process import Redis, use_broker
from worker.broker.app import app
from worker.db.models import Attempt, Job
from worker.db.session import writing
from worker.jobs import create, queries
from worker.planning.spec import JobSpec
from worker.states import JobState


@pytest.fixture
def spec(database: str, data_dir: Path) -> JobSpec:
    """A job that would be accepted."""
    return JobSpec(**make_inputs(data_dir))


@pytest.fixture
def job_in(spec: JobSpec, data_dir: Path) -> Callable[..., Job]:
    """Makes a stored job in a state, with the directory of its attempt."""

    def make(state: JobState, **columns: Any) -> Job:
        job = queries.get(create.create(spec, ANNA).job_id)
        directory = data_dir / "jobs" / job.id / "attempts" / "1"
        directory.mkdir(parents=True)
        with writing() as session:
            stored = queries.find(session, job.id)
            stored.state = state
            stored.sqlmodel_update(columns)
            attempt = session.get_one(Attempt, (job.id, 1))
            attempt.external_id, attempt.directory = f"{job.id}.1", str(directory)
        return queries.get(job.id)

    return make


@pytest.fixture
def redis(environment: pytest.MonkeyPatch, broker: str) -> Iterator[Redis]:
    """The broker, with nothing in it."""
    use_broker(broker, environment)
    with app.connection_for_write() as connection:
        client = connection.default_channel.client
        client.flushdb()
        yield client
