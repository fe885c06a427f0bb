"""Jobs that wait on the Slurm, and their rows as a service that has looked at them would have them."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from sqlalchemy import update

from bench.slurm.figures import Progress
from bench.slurm.place import NEAR, Place, backend
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


class Waiting:
    """Real jobs of Slurm in its partition `down`, which nothing ends but the cluster's end."""

    def __init__(self, place: Place) -> None:
        self._place = place
        caller = Caller("bench", "default", Role.ADMIN)
        made = create.create(JobSpec(**place.body(NEAR)), caller)
        self._like = queries.get(made.job_id).model_dump()
        """The columns of a job that the service made itself."""
        self.ids: list[str] = []

    def __len__(self) -> int:
        return len(self.ids)

    def grow(self, number: int, progress: Progress) -> None:
        """Submit until there are so many."""
        fresh = [new_id("job") for _ in range(number - len(self.ids))]
        handles = list(self._submitted(fresh, progress))
        seen = backend(NEAR).poll(handles)
        with writing() as session:
            session.add_all(self._job(job_id, seen[run_name(job_id, 1)]) for job_id in fresh)
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
        done = self._place.slurm.run(*SUBMIT, f"--job-name={name}", stdin=SCRIPT)
        return Handle(done.stdout.strip(), name, backend(NEAR).paths.job(job_id).attempt(1).directory)

    def _job(self, job_id: str, seen: Observation) -> Job:
        known = {
            "id": job_id,
            "state": JobState.QUEUED,
            "reason_code": seen.code,
            "reason_message": seen.message,
            "reason_raw": seen.raw,
            "estimated_start": seen.estimated_start,
            "observed_at": utcnow(),
        }
        return Job(**{**self._like, **known})

    def _attempt(self, job_id: str, handle: Handle) -> Attempt:
        return Attempt(
            job_id=job_id,
            number=1,
            external_id=handle.external_id,
            directory=str(backend(NEAR).paths.job(job_id).attempt(1).directory),
            submitted_at=utcnow(),
        )

    def move_to(self, profile: str) -> None:
        """Let the service reach all of them by another profile: it is the same Slurm."""
        with writing() as session:
            session.execute(update(Job).values(cluster=profile))
