"""Pending jobs on the Slurm, and their rows as a service that has polled them would store them."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from sqlalchemy import update

from bench.slurm.results import Progress
from bench.slurm.testbed import NEAR, Testbed, backend
from worker.auth.roles import Caller, Role
from worker.backends.interface import Handle
from worker.clock import utcnow
from worker.db.models import Attempt, Job, new_id
from worker.db.session import writing
from worker.jobs import create, queries
from worker.planning.spec import JobSpec
from worker.runs.observation import Observation
from worker.runs.run import run_name
from worker.states import JobState

THREADS = 4
SHOWN_EVERY = 100
SUBMIT = ("sbatch", "--parsable", "--partition=down", "--mem=1G", "--export=NONE")
SCRIPT = "#!/bin/sh\n"


class PendingJobs:
    """Real Slurm jobs in the partition `down`. They end only with the cluster."""

    def __init__(self, testbed: Testbed) -> None:
        self._testbed = testbed
        caller = Caller("bench", "default", Role.ADMIN)
        created = create.create(JobSpec(**testbed.body(NEAR)), caller)
        self._template = queries.get(created.job_id).model_dump()
        """The columns of a job that the service has created."""
        self.ids: list[str] = []

    def __len__(self) -> int:
        return len(self.ids)

    def grow(self, number: int, progress: Progress) -> None:
        """Submit jobs until there are `number`."""
        fresh = [new_id("job") for _ in range(number - len(self.ids))]
        handles = list(self._submitted(fresh, progress))
        observations = backend(NEAR).poll(handles)
        with writing() as session:
            session.add_all(self._job(job_id, observations[run_name(job_id, 1)]) for job_id in fresh)
            session.flush()
            session.add_all(self._attempt(job_id, one) for job_id, one in zip(fresh, handles, strict=True))
        self.ids += fresh

    def _submitted(self, fresh: list[str], progress: Progress) -> Iterator[Handle]:
        with ThreadPoolExecutor(THREADS) as threads:
            for number, handle in enumerate(threads.map(self._submit, fresh), 1):
                if number % SHOWN_EVERY == 0:
                    progress(f"{number:,} of {len(fresh):,} jobs submitted")
                yield handle

    def _submit(self, job_id: str) -> Handle:
        name = run_name(job_id, 1)
        done = self._testbed.slurm.run(*SUBMIT, f"--job-name={name}", stdin=SCRIPT)
        return Handle(done.stdout.strip(), name, backend(NEAR).paths.job(job_id).attempt(1).directory)

    def _job(self, job_id: str, observation: Observation) -> Job:
        known = {
            "id": job_id,
            "state": JobState.QUEUED,
            "reason_code": observation.code,
            "reason_message": observation.message,
            "reason_raw": observation.raw,
            "estimated_start": observation.estimated_start,
            "observed_at": utcnow(),
        }
        return Job(**{**self._template, **known})

    def _attempt(self, job_id: str, handle: Handle) -> Attempt:
        return Attempt(
            job_id=job_id,
            number=1,
            external_id=handle.external_id,
            directory=str(backend(NEAR).paths.job(job_id).attempt(1).directory),
            submitted_at=utcnow(),
        )

    def move_to(self, profile: str) -> None:
        """Let the service access all jobs by another profile of the same Slurm."""
        with writing() as session:
            session.execute(update(Job).values(cluster=profile))
