"""The last lines of a long log through the API, and by tail alone."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from time import perf_counter
from typing import cast

import httpx2

from bench.slurm.figures import Figure, Progress, milliseconds
from bench.slurm.place import FAR, NEAR, Place, api, backend
from bench.slurm.waiting import Waiting
from worker.backends.access.files import Files, FileStat
from worker.jobs import logs

LINES = 100
LINE = b"2026-01-01T00:00:00 [rank 0] iteration %8d/10000000 | loss 1.234567 | grad norm 0.987 | lr 5.0e-06\n"
WRITTEN_LINES = 10_000
TAIL_SECONDS = 60.0


class Counting:
    """Files, as far as reading a log needs them; counts what is read."""

    def __init__(self, files: Files) -> None:
        self._files = files
        self.bytes = self.calls = 0

    def stat(self, path: Path) -> FileStat:
        return self._files.stat(path)

    def read(self, path: Path, offset: int, limit: int) -> bytes:
        data = self._files.read(path, offset, limit)
        self.bytes, self.calls = self.bytes + len(data), self.calls + 1
        return data


def measure(
    place: Place, waiting: Waiting, data_dir: Path, size: int, repetitions: int, progress: Progress
) -> list[Figure]:
    """GET logs?tail of a log of so many bytes, near and far, and tail by the same transport, in turns.

    The log is a hole up to its last lines. What is read of it is counted in this process.
    """
    job_id = waiting.ids[0]
    _write(place, job_id, size)
    rows: list[Figure] = []
    with api(data_dir) as client:
        for profile in (NEAR, FAR):
            progress(f"the last {LINES} lines of {size / 1e9:g} GB, {profile}")
            waiting.move_to(profile)
            rows += _of_profile(client, job_id, profile, repetitions)
    return rows


def _write(place: Place, job_id: str, size: int) -> None:
    path = place.root / "jobs" / job_id / "attempts" / "1" / "logs" / "job.log"
    path.parent.mkdir(parents=True)
    end = b"".join(LINE % number for number in range(WRITTEN_LINES))
    with path.open("wb") as file:
        file.seek(size - len(end))
        file.write(end)


def _of_profile(client: httpx2.Client, job_id: str, profile: str, repetitions: int) -> Iterator[Figure]:
    log = logs.find(job_id)
    assert log.path is not None
    _get(client, job_id), _tail(profile, log.path)  # connected
    pairs = [(_get(client, job_id), _tail(profile, log.path)) for _ in range(repetitions)]
    answered, alone = [one for one, _ in pairs], [one for _, one in pairs]
    files = Counting(log.files)
    logs.read(replace(log, files=cast(Files, files)), tail=LINES)
    yield milliseconds(f"{profile}: tail -n {LINES}", alone)
    yield milliseconds(f"{profile}: GET logs?tail={LINES}", answered, alone)
    yield Figure(f"{profile}: read of the log", f"{files.bytes / 1024:,.0f}", f"KiB in {files.calls} calls")


def _get(client: httpx2.Client, job_id: str) -> float:
    began = perf_counter()
    answer = client.get(f"/v1/jobs/{job_id}/logs", params={"tail": LINES})
    if not answer.is_success or answer.json()["text"].count("\n") != LINES:
        raise SystemExit(f"These are not the log's last {LINES} lines: {answer.text[:300]}")
    return perf_counter() - began


def _tail(profile: str, path: Path) -> float:
    began = perf_counter()
    answer = backend(profile).transport.run(["tail", "-n", str(LINES), str(path)], timeout=TAIL_SECONDS)
    if answer.out.count("\n") != LINES:
        raise SystemExit(f"tail did not answer: {answer.err}")
    return perf_counter() - began
