"""What a task's lines carry, and that it ends with the task."""

import sys
from collections.abc import Iterator
from io import StringIO

import pytest
from structlog import contextvars

from tests.support.json_lines import lines
from worker import tasks
from worker.telemetry import logging
from worker.telemetry.task_context import HEADER


@pytest.fixture
def stderr(database: str, environment: pytest.MonkeyPatch) -> Iterator[StringIO]:
    """What the worker writes there."""
    stream = StringIO()
    with environment.context() as patch:
        patch.setattr(sys, "stderr", stream)
        logging.configure()
        yield stream
    logging.configure()


def test_a_task_that_fails_says_for_which_job_and_request(stderr: StringIO) -> None:
    tasks.submit.apply(("job-none",), task_id="t-1", headers={HEADER: {"request_id": "r-1"}})
    expected = {"job_id": "job-none", "request_id": "r-1", "task": "worker.tasks.submit", "task_id": "t-1"}
    [failure] = lines(stderr.getvalue(), level="error")
    assert expected.items() <= failure.items()
    assert "NotFound" in failure["exception"]
    assert contextvars.get_contextvars() == {}


def test_nothing_is_left_for_the_next_task_of_the_thread(stderr: StringIO) -> None:
    tasks.poll.apply(("nowhere",), headers={HEADER: {"request_id": "r-1"}})
    tasks.submit.apply(("job-none",))
    [failure] = lines(stderr.getvalue(), level="error")
    assert failure["job_id"] == "job-none"
    assert not {"request_id", "cluster_name"} & set(failure)
