"""Measure polls while clients send requests to the API: these must not cause RPCs of Slurm."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx2

from bench.slurm.pending_jobs import PendingJobs
from bench.slurm.polls import measure_poll, rpcs, span
from bench.slurm.results import Progress, Result, median_milliseconds
from bench.slurm.testbed import NEAR, Testbed, api
from worker.lifecycle import reconcile
from worker.settings import PROJECT_ROOT

POLLS = 10
INTERVAL_SECONDS = 1.0
END_SECONDS = 90.0

Summary = dict[str, float]


def measure(
    testbed: Testbed, pending: PendingJobs, data_dir: Path, client_counts: Sequence[int], progress: Progress
) -> list[Result]:
    """Measure one poll per second, with an API process and clients that each read a job once per second.

    RPCs are counted over the complete time, whoever caused them. API and clients share the machine
    with Slurm and the polls, which slows the polls down. If one API process cannot respond to all
    clients in time, each client sends its next request after the response.
    """
    pending.move_to(NEAR)
    reconcile.poll_cluster(NEAR)
    with api(data_dir) as client:
        rows: list[Result] = []
        for number in client_counts:
            progress(f"{len(pending):,} jobs, {number} clients")
            with _clients(client, data_dir, pending.ids, number) as summary:
                found = list(_polls(testbed))
            rows += [row.of(f"{number} clients") for row in (*found, *_responses(summary))]
        return rows


def _polls(testbed: Testbed) -> Iterator[Result]:
    before, started, polls = rpcs(testbed.slurm), time.monotonic(), []
    for number in range(1, POLLS + 1):
        polls.append(measure_poll(testbed.slurm, NEAR))
        time.sleep(max(0.0, started + number * INTERVAL_SECONDS - time.monotonic()))
    lasted = time.monotonic() - started
    total_rpcs = (rpcs(testbed.slurm) - before).total()
    yield median_milliseconds("one poll", [one.seconds for one in polls])
    yield median_milliseconds("processor, one poll", [one.own_cpu + one.children_cpu for one in polls])
    yield Result("RPCs of slurmctld", span([one.rpcs.total() for one in polls]), "per poll")
    yield Result("RPCs of slurmctld", f"{total_rpcs / lasted:.2f}", f"per second, over {lasted:.0f} s")


def _responses(summary: Summary) -> Iterator[Result]:
    if summary:
        yield Result("GET /v1/jobs/ID", f"{summary['per_second']:.0f}", "responses per second")
        yield Result("GET /v1/jobs/ID", f"{summary['median_seconds'] * 1000:,.1f}", "ms")
        yield Result("GET /v1/jobs/ID", f"{summary['failed']:.0f}", "errors")


@contextmanager
def _clients(client: httpx2.Client, data_dir: Path, ids: list[str], number: int) -> Iterator[Summary]:
    """Run clients in a separate process; their summary is complete after the block."""
    summary: Summary = {}
    if number == 0:
        yield summary
        return
    process = _start_clients(client, data_dir, ids, number)
    try:
        assert process.stdout is not None
        if process.stdout.readline() != "sending\n":
            raise SystemExit("The clients ended without sending requests.")
        yield summary
        summary |= json.loads(process.communicate(timeout=END_SECONDS)[0])
    finally:
        process.kill()
        process.wait()


def _start_clients(
    client: httpx2.Client, data_dir: Path, ids: list[str], number: int
) -> "subprocess.Popen[str]":
    ids_file = data_dir / "ids.json"
    ids_file.write_text(json.dumps(ids))
    arguments = [str(client.base_url), str(data_dir / "admin.key"), str(ids_file), str(number)]
    return subprocess.Popen(
        [sys.executable, "-m", "bench.slurm.clients", *arguments], cwd=PROJECT_ROOT, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
