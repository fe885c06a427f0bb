"""The secrets file exists only while a run may need it."""

from pathlib import Path

import pytest

from tests.support.slurm_commands import FakeSlurm
from worker.backends.access.transport import Answer
from worker.backends.interface import Handle, Submission
from worker.backends.slurm.backend import SlurmBackend
from worker.clusters.profiles import SlurmCluster
from worker.errors import BackendUnavailable, SubmissionRejected

UNCLEAR = Answer(1, "", "sbatch: error: Socket timed out on send/recv operation")
REJECTED = Answer(1, "", "sbatch: error: Invalid qos specification")


@pytest.fixture
def slurm() -> FakeSlurm:
    return FakeSlurm(answers={"submit": Answer(0, "7\n", ""), "enroot": Answer(0, f"sha256:{'a' * 64}", "")})


@pytest.fixture
def backend(slurm: FakeSlurm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SlurmBackend:
    monkeypatch.setenv("TEAM_HF", "canary")
    secrets = {"team-hf": {"env": "TEAM_HF"}}
    profile = {"name": "s", "executor": "slurm", "remote_job_dir": tmp_path, "secrets": secrets}
    return SlurmBackend(SlurmCluster(**profile), slurm)


@pytest.fixture
def submission(backend: SlurmBackend) -> Submission:
    return Submission(
        name="job-1.1",
        directory=str(backend.paths.job("job-1").attempt(1).directory),
        files={},
        command=[],
        secrets={"HF_TOKEN": "team-hf"},
        image="registry.example.com/nemo:1",
    )


def has_secrets(submission: Submission) -> bool:
    return (Path(submission.directory) / "secrets.sh").exists()


@pytest.mark.parametrize(
    ("answer", "error"), [(Answer(127, "", ""), SubmissionRejected), (Answer(1, "", ""), BackendUnavailable)]
)
def test_a_failed_digest_query_leaves_no_secrets(
    slurm: FakeSlurm,
    backend: SlurmBackend,
    submission: Submission,
    answer: Answer,
    error: type[Exception],
) -> None:
    slurm.answers["enroot"] = answer
    with pytest.raises(error):
        backend.submit(submission)
    assert not has_secrets(submission)


def test_secrets_stay_after_an_unclear_answer_and_are_removed_after_a_rejection(
    slurm: FakeSlurm, backend: SlurmBackend, submission: Submission
) -> None:
    slurm.answers["submit"] = UNCLEAR
    with pytest.raises(BackendUnavailable):
        backend.submit(submission)
    assert has_secrets(submission)
    slurm.answers["submit"] = REJECTED
    with pytest.raises(SubmissionRejected):
        backend.submit(submission)
    assert not has_secrets(submission)


@pytest.mark.parametrize("attempt", [1, 2])
def test_secrets_of_an_abandoned_attempt_are_removed(
    backend: SlurmBackend, submission: Submission, attempt: int
) -> None:
    backend.submit(submission)
    assert has_secrets(submission)
    assert backend.abandon(
        Handle("7", submission.name, backend.paths.job("job-1").attempt(attempt).directory)
    )
    assert not has_secrets(submission)


def test_a_started_run_keeps_its_secrets(backend: SlurmBackend, submission: Submission) -> None:
    backend.submit(submission)
    (Path(submission.directory) / "claim").write_text("7\n")
    assert not backend.abandon(submission.handle("7"))
    assert has_secrets(submission)
