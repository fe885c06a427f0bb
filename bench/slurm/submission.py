"""From POST /v1/jobs until sbatch has accepted the job, and how long sbatch takes alone."""

from datetime import datetime
from time import perf_counter
from typing import NamedTuple

import httpx2

from bench.slurm.figures import Figure, Progress, milliseconds
from bench.slurm.place import FAR, NEAR, Place, backend, serving, wait_until
from worker.clock import utcnow
from worker.runs.run import run_name

ACCEPT_SECONDS = 120.0
SBATCH_SECONDS = 60.0


class Times(NamedTuple):
    """Seconds of one job."""

    answered: float
    accepted: float
    alone: float


def measure(place: Place, repetitions: int, progress: Progress) -> list[Figure]:
    """A service as a user starts it, one job at a time, near and far in turns.

    Its time is that from the request's start to the attempt's submitted_at, which is set once sbatch
    has answered: plan and checks, database, broker and worker, the files on the cluster, and sbatch.
    sbatch alone is given the script of that very job under another name, by the same transport (far:
    over a connection that is kept).
    """
    with serving(place.data_dir("submitting")) as client:
        for profile in (NEAR, FAR):  # the first ones stage the trainer's code, and connect
            _times(client, place, profile)
        rounds = []
        for number in range(repetitions):
            progress(f"submission {number + 1} of {repetitions}, near and far")
            rounds.append({profile: _times(client, place, profile) for profile in (NEAR, FAR)})
    place.slurm.run("scancel", "--user=root")
    return [row for name in (NEAR, FAR) for row in _rows(name, [times[name] for times in rounds])]


def _times(client: httpx2.Client, place: Place, profile: str) -> Times:
    began, clock = utcnow(), perf_counter()
    answer = client.post("/v1/jobs", json=place.body(profile))
    answered = perf_counter() - clock
    if answer.status_code != 201:
        raise SystemExit(f"The job was refused: {answer.text}")
    job_id = answer.json()["id"]
    at = wait_until(lambda: _submitted_at(client, job_id), ACCEPT_SECONDS, "a job to be submitted")
    accepted = datetime.fromisoformat(at) - began
    return Times(answered, accepted.total_seconds(), _alone(profile, job_id))


def _submitted_at(client: httpx2.Client, job_id: str) -> str:
    attempts = client.get(f"/v1/jobs/{job_id}/attempts").json()["items"]
    return attempts[0]["submitted_at"] or ""


def _alone(profile: str, job_id: str) -> float:
    script = backend(profile).paths.job(job_id).attempt(1).directory / "job.sh"
    command = ["sbatch", "--parsable", f"--job-name=alone-{run_name(job_id, 1)}", str(script)]
    began = perf_counter()
    answer = backend(profile).transport.run(command, timeout=SBATCH_SECONDS)
    if answer.code != 0:
        raise SystemExit(f"sbatch refused a script: {answer.err}")
    return perf_counter() - began


def _rows(profile: str, times: list[Times]) -> list[Figure]:
    alone = [one.alone for one in times]
    return [
        milliseconds(f"{profile}: sbatch alone", alone),
        milliseconds(f"{profile}: POST until it is answered", [one.answered for one in times], alone),
        milliseconds(f"{profile}: POST until sbatch has accepted", [one.accepted for one in times], alone),
    ]
