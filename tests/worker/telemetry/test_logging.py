"""One request is followed from the API through the queue to the backend by its id."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.json_lines import Line, lines
from tests.support.service import Service
from tests.support.waiting import wait_until


@pytest.mark.slow
def test_lines_of_api_and_worker_have_the_same_request_and_job(
    service: Service, body: dict[str, Any]
) -> None:
    def written(**wanted: Any) -> list[Line]:
        return lines((service.data_dir.parent / "serve.err").read_text(), **wanted)

    request = {"request_id": "portal-1"}
    job_id = service.submit(body, **{"X-Request-ID": request["request_id"]})["id"]
    service.wait_for(job_id)
    about = {**request, "job_id": job_id}
    [created] = written(event="job.created", **about)
    assert created["module"] == "worker.jobs.create"
    submitted = wait_until(lambda: written(event="submit.done", **about))[0]
    assert submitted["task"] == "worker.tasks.submit"
    assert submitted["task_id"]
    [access] = written(event="request", **request)
    assert (access["route"], access["status"], access["caller"]) == ("/v1/jobs", 201, "admin")
    # The clock caused this one, no request.
    ended = wait_until(lambda: written(event="job.ended", job_id=job_id))[0]
    assert ended["task"] == "worker.tasks.take_in"
    assert "request_id" not in ended


def test_a_full_disk_under_the_log_stops_nothing() -> None:
    program = (
        "from worker.telemetry.logging import *; configure(); logger('x').warning('lost'); print('continued')"
    )
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=full, text=True, timeout=60
        )
    assert done.stdout == "continued\n"
