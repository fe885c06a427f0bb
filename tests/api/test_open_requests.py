"""Streams, long polls and downloads of one key: as many at a time as it may have."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.support.inputs import make_inputs
from tests.support.service import Service
from tests.support.stand_in.control import with_mode
from tests.support.waiting import wait_until

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, stand_in: Path) -> Iterator[Service]:
    data_dir = tmp_path_factory.mktemp("service") / "data"
    data_dir.mkdir()
    with Service(data_dir, SFT_TRAINER_PYTHON=str(stand_in), SFT_MAX_OPEN_REQUESTS="2") as running:
        yield running


@pytest.fixture(scope="module")
def job(service: Service) -> dict[str, Any]:
    """Return a job that runs, and has no checkpoint yet."""
    job_id = service.submit(with_mode(make_inputs(service.data_dir), "hold"))["id"]
    return service.wait_for(job_id, "RUNNING")


@pytest.fixture(scope="module")
def ended(service: Service, job: dict[str, Any]) -> str:
    """Return the path of an ended job."""
    service.client.post(f"/v1/jobs/{job['id']}/cancel")
    service.wait_for(job["id"])
    return f"/v1/jobs/{service.wait_for(service.submit(make_inputs(service.data_dir))['id'])['id']}"


def assert_too_many(answer: httpx2.Response) -> None:
    assert (answer.status_code, answer.json()["code"]) == (429, "too_many_open_requests")
    assert answer.headers["content-type"] == "application/problem+json"
    assert int(answer.headers["Retry-After"]) > 0


def test_a_key_has_so_many_open_and_other_requests_are_not_affected(
    service: Service, job: dict[str, Any]
) -> None:
    path = f"/v1/jobs/{job['id']}"
    another = service.client.post("/v1/keys", json={"name": "anna", "role": "viewer"}).json()["key"]
    with ExitStack() as streams:
        for name in ("stream", "logs/stream"):
            opened = streams.enter_context(service.client.stream("GET", f"{path}/{name}"))
            assert opened.status_code == 200
        files = f"{path}/checkpoints/4"
        for refused in ("stream", "events/stream", "logs/stream", "?wait=30s"):
            assert_too_many(service.client.get(f"{path}/{refused}" if "?" not in refused else path + refused))
        for refused in (f"{files}/archive", f"{files}/files/metadata.json"):
            assert_too_many(service.client.get(refused))
        assert service.client.get(path).status_code == 200
        headers = {"Authorization": f"Bearer {another}"}
        assert service.client.get(f"{path}?wait=1s", headers=headers).status_code == 200
    # The server notices that a client has gone when it writes, or polls.
    wait_until(lambda: service.client.get(f"{path}?wait=1s").status_code == 200, what="room for a request")


def test_a_request_that_has_ended_counts_no_longer(service: Service, ended: str) -> None:
    paths = (
        "?wait=1s",
        "/stream",
        "/checkpoints/4/archive",
        "/checkpoints/4/files/metadata.json",
        "/logs/stream",
    )
    for path in [*paths] * 3:
        answer = service.client.get(ended + path)
        assert answer.status_code == 200, answer.text
    failed = service.client.get(f"{ended}/checkpoints/9/archive")
    assert failed.status_code == 404
    assert [service.client.get(f"{ended}/checkpoints/9/archive").status_code for _ in range(3)] == [404] * 3
