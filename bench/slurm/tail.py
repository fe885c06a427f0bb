"""Measure reading the last lines of a long log through the API, and with tail alone."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from time import perf_counter
from typing import cast

import httpx2

from bench.slurm.pending_jobs import PendingJobs
from bench.slurm.results import Progress, Result, median_milliseconds
from bench.slurm.testbed import FAR, NEAR, Testbed, api, backend
from worker.backends.access.files import Files, FileStat
from worker.jobs import logs

LINES = 100
LINE = b"2026-01-01T00:00:00 [rank 0] iteration %8d/10000000 | loss 1.234567 | grad norm 0.987 | lr 5.0e-06\n"
WRITTEN_LINES = 10_000
TAIL_SECONDS = 60.0


class CountingFiles:
    """The methods of Files that reading a log needs; counts calls and bytes."""

    def __init__(self, files: Files) -> None:
        self._files = files
        self.bytes = self.calls = 0

    def stat(self, path: Path, below: Path | None = None) -> FileStat:
        return self._files.stat(path, below)

    def read(self, path: Path, offset: int, limit: int, below: Path | None = None) -> bytes:
        data = self._files.read(path, offset, limit, below)
        self.bytes, self.calls = self.bytes + len(data), self.calls + 1
        return data


def measure(
    testbed: Testbed, pending: PendingJobs, data_dir: Path, size: int, repetitions: int, progress: Progress
) -> list[Result]:
    """Measure GET logs?tail of a log of `size` bytes, alternating with tail by the same transport.

    The log is a sparse file up to its last lines. This process counts the bytes read of it.
    """
    job_id = pending.ids[0]
    _write(testbed, job_id, size)
    rows: list[Result] = []
    with api(data_dir) as client:
        for profile in (NEAR, FAR):
            progress(f"the last {LINES} lines of {size / 1e9:g} GB, {profile}")
            pending.move_to(profile)
            rows += _of_profile(client, job_id, profile, repetitions)
    return rows


def _write(testbed: Testbed, job_id: str, size: int) -> None:
    path = testbed.root / "jobs" / job_id / "attempts" / "1" / "logs" / "job.log"
    path.parent.mkdir(parents=True)
    end = b"".join(LINE % number for number in range(WRITTEN_LINES))
    with path.open("wb") as file:
        file.seek(size - len(end))
        file.write(end)


def _of_profile(client: httpx2.Client, job_id: str, profile: str, repetitions: int) -> Iterator[Result]:
    log = logs.find(job_id)
    assert log.layout is not None
    path = log.layout.log()
    _get(client, job_id), _tail(profile, path)  # connect first
    pairs = [(_get(client, job_id), _tail(profile, path)) for _ in range(repetitions)]
    responded, alone = [one for one, _ in pairs], [one for _, one in pairs]
    files = CountingFiles(log.files)
    logs.read(replace(log, files=cast(Files, files)), tail=LINES)
    yield median_milliseconds(f"{profile}: tail -n {LINES}", alone)
    yield median_milliseconds(f"{profile}: GET logs?tail={LINES}", responded, alone)
    yield Result(f"{profile}: read of the log", f"{files.bytes / 1024:,.0f}", f"KiB in {files.calls} calls")


def _get(client: httpx2.Client, job_id: str) -> float:
    started = perf_counter()
    response = client.get(f"/v1/jobs/{job_id}/logs", params={"tail": LINES})
    if not response.is_success or response.json()["text"].count("\n") != LINES:
        raise SystemExit(f"These are not the log's last {LINES} lines: {response.text[:300]}")
    return perf_counter() - started


def _tail(profile: str, path: Path) -> float:
    started = perf_counter()
    response = backend(profile).transport.run(["tail", "-n", str(LINES), str(path)], timeout=TAIL_SECONDS)
    if response.out.count("\n") != LINES:
        raise SystemExit(f"tail failed: {response.err}")
    return perf_counter() - started
