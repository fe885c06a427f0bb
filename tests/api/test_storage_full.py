"""A disk without space under a request is a 507, wherever the request reaches the disk."""

import errno
import os

import pytest
from fastapi.testclient import TestClient

from tests.support.chaos.unavailable import assert_storage_full


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_no_space_for_a_file_is_507(client: TestClient, environment: pytest.MonkeyPatch, number: int) -> None:
    fail_with(number, environment)
    assert_storage_full(client.get("/v1/jobs"))


def test_another_error_of_the_system_is_a_bug(client: TestClient, environment: pytest.MonkeyPatch) -> None:
    fail_with(errno.EIO, environment)
    careless = TestClient(client.app, headers=client.headers, raise_server_exceptions=False)
    answer = careless.get("/v1/jobs")
    assert (answer.status_code, answer.json()["code"]) == (500, "internal_error")


def fail_with(number: int, environment: pytest.MonkeyPatch) -> None:
    """Let a request meet an error of the system."""
    from worker.jobs import queries

    def fail(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    environment.setattr(queries, "page_of_jobs", fail)
