"""Measure the time from POST /v1/jobs until sbatch has accepted the job, and the time of sbatch alone."""

from datetime import datetime
from time import perf_counter
from typing import NamedTuple

import httpx2

from bench.slurm.results import Progress, Result, median_milliseconds
from bench.slurm.testbed import FAR, NEAR, Testbed, backend, serving, wait_until
from worker.clock import utcnow
from worker.runs.run import run_name

ACCEPT_SECONDS = 120.0
SBATCH_SECONDS = 60.0


class Times(NamedTuple):
    """Times of one job, in seconds."""

    responded: float
    accepted: float
    alone: float


def measure(testbed: Testbed, repetitions: int, progress: Progress) -> list[Result]:
    """Measure submissions to a service of `sft serve`, one job at a time, near and far alternately.

    Its time is that from the request's start to the attempt's submitted_at, which is set once sbatch
    has returned: plan and checks, database, broker and worker, the files on the cluster, and sbatch.
    sbatch alone submits the script of the same job under another name, by the same transport (far:
    over a persistent connection).
    """
    with serving(testbed.data_dir("submitting")) as client:
        for profile in (NEAR, FAR):  # the first submissions stage the trainer's code, and connect
            _times(client, testbed, profile)
        rounds = []
        for number in range(repetitions):
            progress(f"submission {number + 1} of {repetitions}, near and far")
            rounds.append({profile: _times(client, testbed, profile) for profile in (NEAR, FAR)})
    testbed.slurm.run("scancel", "--user=root")
    return [row for name in (NEAR, FAR) for row in _rows(name, [times[name] for times in rounds])]


def _times(client: httpx2.Client, testbed: Testbed, profile: str) -> Times:
    started, clock = utcnow(), perf_counter()
    response = client.post("/v1/jobs", json=testbed.body(profile))
    responded = perf_counter() - clock
    if response.status_code != 201:
        raise SystemExit(f"The service rejected the job: {response.text}")
    job_id = response.json()["id"]
    at = wait_until(lambda: _submitted_at(client, job_id), ACCEPT_SECONDS, "a job to be submitted")
    accepted = datetime.fromisoformat(at) - started
    return Times(responded, accepted.total_seconds(), _alone(profile, job_id))


def _submitted_at(client: httpx2.Client, job_id: str) -> str:
    attempts = client.get(f"/v1/jobs/{job_id}/attempts").json()["items"]
    return attempts[0]["submitted_at"] or ""


def _alone(profile: str, job_id: str) -> float:
    script = backend(profile).paths.job(job_id).attempt(1).directory / "job.sh"
    command = ["sbatch", "--parsable", f"--job-name=alone-{run_name(job_id, 1)}", str(script)]
    started = perf_counter()
    response = backend(profile).transport.run(command, timeout=SBATCH_SECONDS)
    if response.code != 0:
        raise SystemExit(f"sbatch rejected a script: {response.err}")
    return perf_counter() - started


def _rows(profile: str, times: list[Times]) -> list[Result]:
    alone = [one.alone for one in times]
    return [
        median_milliseconds(f"{profile}: sbatch alone", alone),
        median_milliseconds(f"{profile}: POST until the response", [one.responded for one in times], alone),
        median_milliseconds(
            f"{profile}: POST until sbatch has accepted", [one.accepted for one in times], alone
        ),
    ]
