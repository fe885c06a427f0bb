"""An attempt that is submitted repeatedly imports its image once."""

from pathlib import Path

import pytest

from tests.support.slurm_commands import FakeSlurm, handle, queue_line
from worker.backends.access.transport import Answer
from worker.backends.interface import Submission
from worker.backends.slurm.backend import SlurmBackend
from worker.backends.slurm.images import log_of_import
from worker.clusters.profiles import SlurmCluster
from worker.errors import BackendUnavailable

NAME = "job-1.1"


@pytest.fixture
def slurm() -> FakeSlurm:
    lost = Answer(1, "", "sbatch: error: Socket timed out on send/recv operation")
    return FakeSlurm(answers={"submit": lost, "sbatch": Answer(0, "41\n", "")})


@pytest.fixture
def backend(slurm: FakeSlurm, tmp_path: Path) -> SlurmBackend:
    return SlurmBackend(SlurmCluster(name="s", executor="slurm", remote_job_dir=tmp_path), slurm)


@pytest.fixture
def submission(backend: SlurmBackend) -> Submission:
    image = f"registry.example.com/nemo@sha256:{'a' * 64}"
    directory = str(backend.paths.job("job-1").attempt(1).directory)
    return Submission(name=NAME, directory=directory, files={}, command=[], image=image, fresh_image=True)


def test_a_fresh_import_is_submitted_once(
    slurm: FakeSlurm, backend: SlurmBackend, submission: Submission
) -> None:
    for _ in range(3):
        with pytest.raises(BackendUnavailable):
            backend.submit(submission)
    assert slurm.asked.count("sbatch") == 1
    assert slurm.asked.count("submit") == 3


def test_a_failed_import_is_reported_with_its_log(
    slurm: FakeSlurm, backend: SlurmBackend, submission: Submission
) -> None:
    slurm.answers["submit"] = Answer(0, "42\n", "")
    backend.submit(submission)
    failed = queue_line(JobID="42", State="CANCELLED", Reason="DependencyNeverSatisfied", Name=NAME)
    slurm.queue = [failed]
    run = handle("42", NAME, backend.paths.root)
    assert backend.poll([run])[NAME].message == "The import of the container image failed."
    log = log_of_import(Path((Path(submission.directory) / "image").read_text().strip()))
    log.write_text("[ERROR] no such\nimage\n")
    seen = backend.poll([run])[NAME]
    assert seen.message.endswith(f"{log} ends with: [ERROR] no such image")
