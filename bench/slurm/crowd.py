"""The same look while clients ask the API: they must not reach Slurm."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx2

from bench.slurm.figures import Figure, Progress, milliseconds
from bench.slurm.looks import look, rpcs, span
from bench.slurm.place import NEAR, Place, api
from bench.slurm.waiting import Waiting
from worker.lifecycle import reconcile
from worker.settings import PROJECT_ROOT

LOOKS = 10
INTERVAL_SECONDS = 1.0
END_SECONDS = 90.0

Asked = dict[str, float]


def measure(
    place: Place, waiting: Waiting, data_dir: Path, crowds: Sequence[int], progress: Progress
) -> list[Figure]:
    """A look each second, with an API process and so many clients that ask for a job once a second each.

    RPCs are counted over the whole time, whoever asked for them. API and clients share the machine
    with Slurm and the looks, so the looks become slower as they would not elsewhere. Where one API
    process cannot answer so many, each client asks again once it is answered.
    """
    waiting.move_to(NEAR)
    reconcile.poll_cluster(NEAR)
    with api(data_dir) as client:
        rows: list[Figure] = []
        for number in crowds:
            progress(f"{len(waiting):,} jobs, {number} clients")
            with _clients(client, data_dir, waiting.ids, number) as asked:
                found = list(_looks(place))
            rows += [row.of(f"{number} clients") for row in (*found, *_answers(asked))]
        return rows


def _looks(place: Place) -> Iterator[Figure]:
    before, began, looks = rpcs(place.slurm), time.monotonic(), []
    for number in range(1, LOOKS + 1):
        looks.append(look(place.slurm, NEAR))
        time.sleep(max(0.0, began + number * INTERVAL_SECONDS - time.monotonic()))
    lasted = time.monotonic() - began
    asked = (rpcs(place.slurm) - before).total()
    yield milliseconds("a look", [one.seconds for one in looks])
    yield milliseconds("processor, the look", [one.own_cpu + one.children_cpu for one in looks])
    yield Figure("RPCs of slurmctld", span([one.rpcs.total() for one in looks]), "a look")
    yield Figure("RPCs of slurmctld", f"{asked / lasted:.2f}", f"a second, in {lasted:.0f} s")


def _answers(asked: Asked) -> Iterator[Figure]:
    if asked:
        yield Figure("GET /v1/jobs/ID", f"{asked['asked']:.0f}", "answers a second")
        yield Figure("GET /v1/jobs/ID", f"{asked['median_seconds'] * 1000:,.1f}", "ms")
        yield Figure("GET /v1/jobs/ID", f"{asked['failed']:.0f}", "errors")


@contextmanager
def _clients(client: httpx2.Client, data_dir: Path, ids: list[str], number: int) -> Iterator[Asked]:
    """So many clients in a process of their own; what came of them is there after the block."""
    asked: Asked = {}
    if number == 0:
        yield asked
        return
    process = _started(client, data_dir, ids, number)
    try:
        assert process.stdout is not None
        if process.stdout.readline() != "asking\n":
            raise SystemExit("The clients ended instead of asking.")
        yield asked
        asked |= json.loads(process.communicate(timeout=END_SECONDS)[0])
    finally:
        process.kill()
        process.wait()


def _started(client: httpx2.Client, data_dir: Path, ids: list[str], number: int) -> "subprocess.Popen[str]":
    ids_file = data_dir / "ids.json"
    ids_file.write_text(json.dumps(ids))
    arguments = [str(client.base_url), str(data_dir / "admin.key"), str(ids_file), str(number)]
    return subprocess.Popen(
        [sys.executable, "-m", "bench.slurm.clients", *arguments], cwd=PROJECT_ROOT, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
