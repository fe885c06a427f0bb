"""The file of secrets lies where a run may still need it, and nowhere else."""

from pathlib import Path

import pytest

from tests.support.slurm_commands import FakeSlurm
from worker.backends.access.transport import Answer
from worker.backends.interface import Handle, Submission
from worker.backends.slurm.backend import SlurmBackend
from worker.clusters.profiles import SlurmCluster
from worker.errors import BackendUnavailable, SubmissionRejected

UNCLEAR = Answer(1, "", "sbatch: error: Socket timed out on send/recv operation")
REFUSED = Answer(1, "", "sbatch: error: Invalid qos specification")


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


def kept(submission: Submission) -> bool:
    return (Path(submission.directory) / "secrets.sh").exists()


@pytest.mark.parametrize(
    ("answer", "error"), [(Answer(127, "", ""), SubmissionRejected), (Answer(1, "", ""), BackendUnavailable)]
)
def test_an_image_that_cannot_be_had_leaves_none(
    slurm: FakeSlurm,
    backend: SlurmBackend,
    submission: Submission,
    answer: Answer,
    error: type[Exception],
) -> None:
    slurm.answers["enroot"] = answer
    with pytest.raises(error):
        backend.submit(submission)
    assert not kept(submission)


def test_it_stays_while_slurm_may_have_the_job_and_goes_with_a_refusal(
    slurm: FakeSlurm, backend: SlurmBackend, submission: Submission
) -> None:
    slurm.answers["submit"] = UNCLEAR
    with pytest.raises(BackendUnavailable):
        backend.submit(submission)
    assert kept(submission)
    slurm.answers["submit"] = REFUSED
    with pytest.raises(SubmissionRejected):
        backend.submit(submission)
    assert not kept(submission)


@pytest.mark.parametrize("attempt", [1, 2])
def test_it_goes_with_an_attempt_that_is_given_up(
    backend: SlurmBackend, submission: Submission, attempt: int
) -> None:
    backend.submit(submission)
    assert kept(submission)
    assert backend.abandon(
        Handle("7", submission.name, backend.paths.job("job-1").attempt(attempt).directory)
    )
    assert not kept(submission)


def test_who_has_begun_keeps_it(backend: SlurmBackend, submission: Submission) -> None:
    backend.submit(submission)
    (Path(submission.directory) / "claim").write_text("7\n")
    assert not backend.abandon(submission.handle("7"))
    assert kept(submission)
