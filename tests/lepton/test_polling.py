"""One poll of a workspace: observations, and jobs without a change."""

from pathlib import Path
from typing import Any

import pytest

from tests.support.lepton.bare import Bare, bare
from tests.support.lepton.client import job_body
from tests.support.lepton.server.server import LeptonServer
from worker.backends.lepton.client import PAGE_JOBS
from worker.backends.lepton.observations import (
    EXPLAIN_SECONDS,
    MAX_QUERIES,
    OVERTIME_SECONDS,
    STOP_SECONDS,
)
from worker.backends.lepton.states import STATES

RUNS, STOPS, PREEMPTED = ("running", "running"), ("running", "stopping"), ("ended", "preempted")


@pytest.fixture
def on(lepton: LeptonServer, tmp_path: Path) -> Bare:
    return bare(lepton, tmp_path)


# -- one job of many -------------------------------------------------------------------------------


def test_a_malformed_job_does_not_affect_the_others(on: Bare) -> None:
    for number in (1, 2, 3):
        on.submitted(number, "Running")
    on.on_lepton(2).is_malformed = True
    assert on.codes(1, 2, 3) == [RUNS, None, RUNS]


NO_ANSWERS: list[dict[str, Any]] = [
    {"kind": "status", "status": 500},
    {"kind": "status", "status": 400},
    {"kind": "cut"},
    {"kind": "broken"},
]


@pytest.mark.parametrize("fault", NO_ANSWERS)
def test_a_failed_query_does_not_affect_the_other_jobs(on: Bare, fault: dict[str, Any]) -> None:
    for number in (1, 2):
        on.submitted(number, "Running")
    on.on_lepton(1).unlisted = 1
    on.lepton.faults.add(path="/jobs/job-1-1", **fault)
    assert on.codes(1, 2) == [None, RUNS]
    on.lepton.faults.lift()
    assert on.codes(1, 2) == [RUNS, RUNS]


def test_one_poll_reads_all_pages_of_the_list(on: Bare) -> None:
    on.submitted(1, "Running")
    for number in range(2 * PAGE_JOBS):
        on.lepton.workspace.create(job_body(f"other-{number}"))
    on.submitted(2, "Running")
    on.lepton.requests.clear()
    assert on.codes(1, 2) == [RUNS] * 2
    assert [query["page"] for _, _, query in on.lepton.requests] == ["1", "2", "3", "4"]


# -- states ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", STATES)
def test_each_state_of_a_run_that_was_not_seen_before(on: Bare, state: str) -> None:
    on.submitted(shown=state)
    assert on.codes(1) == [(STATES[state].phase.value, STATES[state].code)]


@pytest.mark.parametrize("state", ["Stopping", "Terminating", "Deleting"])
def test_a_stopping_run_has_not_ended(on: Bare, state: str) -> None:
    on.submitted(shown="Running")
    on.seen(1)
    on.on_lepton().shown = state
    assert on.codes(1) == [STOPS]


def test_a_deleted_record_is_a_cancelled_run(on: Bare) -> None:
    on.submitted(shown="Deleted")
    assert on.codes(1) == [("ended", "cancelled")]


@pytest.mark.parametrize("ready", [0, 1, 2])
def test_the_number_of_ready_replicas_is_reported(on: Bare, ready: int) -> None:
    on.submitted(shown="Starting", nodes=2).ready = ready
    [seen] = on.seen(1)
    assert seen is not None
    assert seen.message.endswith(f"{ready} of 2 replicas are ready.")


# -- reasons of failed runs ------------------------------------------------------------------------


def test_a_run_has_not_failed_while_its_reason_is_unknown(on: Bare) -> None:
    job = on.submitted(shown="Failed")
    job.note_event("Warning", "Preempted")
    for fault in NO_ANSWERS:
        on.lepton.faults.lift()
        on.lepton.faults.add(path=".*/events", **fault)
        assert on.codes(1) == [None]
    on.lepton.faults.lift()
    assert on.codes(1) == [PREEMPTED]


def test_an_unanswered_query_for_the_reason_ends_after_a_time(on: Bare) -> None:
    on.submitted(shown="Failed")
    on.lepton.faults.add("status", path=".*/events", status=500)
    assert on.codes(1) == [None]
    on.pass_time(EXPLAIN_SECONDS + 1)
    assert on.codes(1) == [("ended", "exited")]


def test_a_malformed_event_does_not_hide_others(on: Bare) -> None:
    job = on.submitted(shown="Failed")
    job.note_event("Warning", "Evicted")
    job.events.append({"reason": {"no": "text"}})
    assert on.codes(1) == [PREEMPTED]


def test_the_next_poll_queries_the_remaining_failed_jobs(on: Bare) -> None:
    numbers = range(1, MAX_QUERIES + 4)
    for number in numbers:
        on.submitted(number, "Failed").note_event("Warning", "Preempted")
    seen = on.codes(*numbers)
    assert (seen.count(PREEMPTED), seen.count(None)) == (MAX_QUERIES, 3)
    left = [number for number, code in zip(numbers, seen, strict=True) if code is None]
    assert on.codes(*left) == [PREEMPTED] * 3


# -- stopping runs ---------------------------------------------------------------------------------


def test_a_requeued_run_has_ended_when_it_has_stopped(on: Bare) -> None:
    job = on.submitted(shown="Running")
    on.seen(1)
    for state in ("Queueing", "Stopping", "Running"):
        job.shown = state
        assert on.codes(1) in ([STOPS], [RUNS])
    assert on.lepton.asked("PATCH", "/jobs/job-1-1") == 1
    for state in ("Stopped", "Failed"):
        job.shown = state
        assert on.codes(1) == [PREEMPTED]


def test_a_requeued_run_that_stays_queued_ends_after_a_time(on: Bare) -> None:
    job = on.submitted(shown="Running")
    on.seen(1)
    job.shown = "PendingRetry"
    on.lepton.faults.add("status", method="PATCH", status=500, times=1)
    assert on.codes(1) == [STOPS]
    on.pass_time(STOP_SECONDS + 1)
    assert on.codes(1) == [PREEMPTED]
    assert on.lepton.asked("PATCH", "/jobs/job-1-1") == 2


def test_a_time_limit_holds_without_labels(on: Bare) -> None:
    job = on.submitted(shown="Running")
    job.metadata["labels"] = None
    on.seen(1)
    on.pass_time(30 * 60 + OVERTIME_SECONDS - 60)
    assert on.codes(1) == [RUNS]
    assert on.lepton.asked("PATCH", "/jobs/job-1-1") == 0
    on.pass_time(61)
    assert on.codes(1) == [RUNS]
    job.shown = None
    assert on.codes(1) == [("ended", "time_limit")]
