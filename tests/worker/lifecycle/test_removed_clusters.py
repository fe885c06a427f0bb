"""Jobs whose cluster is no longer in the configuration say so, and are cancelled as far as possible."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.callers import ANNA
from tests.support.process import forget_settings
from tests.support.run_files import directory_of
from worker import tasks
from worker.db.models import Attempt, Job
from worker.db.session import writing
from worker.errors import ClusterRemoved
from worker.jobs import actions, logs, queries
from worker.lifecycle import ingest, stop_requests
from worker.runs.observation import ExitRecord, ObservationCode
from worker.states import JobState

JobIn = Callable[..., Job]
Write = Callable[[str], None]

pytestmark = pytest.mark.usefixtures("redis")

OTHER = '[other]\nroots = ["/data"]\n'
OTHER_KIND = '[local]\nexecutor = "slurm"\nremote_job_dir = "/lustre/sft"\n'


@pytest.fixture
def profiles(data_dir: Path, environment: pytest.MonkeyPatch) -> Write:
    """Return a function that replaces the cluster profiles."""

    def write(text: str) -> None:
        (data_dir / "clusters.toml").write_text(text)
        forget_settings()

    return write


def change_attempt(job: Job, **values: object) -> None:
    with writing() as session:
        session.get_one(Attempt, (job.id, 1)).sqlmodel_update(values)


def explained(job: Job) -> str:
    """Poll the job's cluster, and return the message of the job's reason."""
    tasks.poll(job.cluster)
    now = queries.get(job.id)
    assert (now.state, now.reason_code) == (job.state, "cluster_removed")
    return now.reason_message or ""


@pytest.mark.parametrize("configuration", [OTHER, OTHER_KIND])
@pytest.mark.parametrize("state", [JobState.VALIDATING, JobState.SUBMITTING])
def test_a_job_that_was_not_submitted_waits_and_is_cancelled(
    job_in: JobIn, profiles: Write, state: JobState, configuration: str
) -> None:
    job = job_in(state)
    change_attempt(job, directory=None, external_id=None)
    profiles(configuration)
    tasks.submit(job.id)
    assert queries.get(job.id).reason_code == "cluster_removed"
    assert "Ask the operator to add it" in explained(job)
    actions.cancel(job.id, ANNA)
    tasks.cancel(job.id)
    assert queries.get(job.id).state is JobState.CANCELLED


def test_what_a_cluster_may_have_is_named_and_stays(job_in: JobIn, profiles: Write) -> None:
    job = job_in(JobState.RUNNING)
    profiles(OTHER)
    assert f"'{job.id}.1', which the service can neither observe nor cancel" in explained(job)
    actions.cancel(job.id, ANNA)
    tasks.cancel(job.id)
    job = queries.get(job.id)
    assert job.state is JobState.CANCELLING
    assert "end it on the cluster" in explained(job)
    version = queries.get(job.id).version
    tasks.poll(job.cluster)
    assert queries.get(job.id).version == version


@pytest.mark.parametrize("state", [JobState.PAUSED, JobState.FINALIZING])
def test_a_job_whose_run_is_over_is_cancelled(job_in: JobIn, profiles: Write, state: JobState) -> None:
    job = job_in(state)
    change_attempt(job, exit=ExitRecord(code=ObservationCode.EXITED))
    profiles(OTHER)
    ingest.ingest(job.id)
    actions.cancel(job.id, ANNA)
    stop_requests.cancel(job.id)
    now = queries.get(job.id)
    assert (now.state, now.reason_code) == (JobState.CANCELLED, "cancelled")
    assert "was removed" in (now.reason_message or "")


def test_a_pause_waits_for_the_profile(job_in: JobIn, profiles: Write) -> None:
    job = job_in(JobState.PAUSING)
    profiles(OTHER)
    stop_requests.pause(job.id)
    assert not (directory_of(job) / "stop").exists()
    with pytest.raises(ClusterRemoved):
        actions.pause(job.id, ANNA)
    with pytest.raises(ClusterRemoved):
        logs.find(job.id)


def test_a_job_continues_when_its_profile_is_there_again(
    job_in: JobIn, profiles: Write, data_dir: Path
) -> None:
    job = job_in(JobState.RUNNING)
    profiles(OTHER)
    explained(job)
    (directory_of(job) / "pid.json").write_text('{"pid": 1, "start_ticks": 1}')
    (directory_of(job) / "exit.json").write_text('{"reason": "exited", "message": "It exited."}')
    profiles(f'[local]\nroots = ["{data_dir}/inputs"]\n')
    tasks.poll(job.cluster)
    now = queries.get(job.id)
    assert (now.state, now.reason_code) == (JobState.FINALIZING, "exited")
