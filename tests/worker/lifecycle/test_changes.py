"""What an observation changes: decisions are data."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from worker.lifecycle.changes import ESTIMATE_STEP, Change, KnownRun, change_of, may_not_restart
from worker.runs.observation import Observation, ObservationCode, Phase
from worker.states import JobState

AT = datetime(2026, 1, 1, tzinfo=UTC)
KNOWN = KnownRun(
    state=JobState.RUNNING,
    is_wanted=True,
    reason_code=None,
    reason_message="Waits.",
    estimated_start=AT,
    restarts=0,
    has_ended=False,
    is_given_up=False,
)
QUEUED = replace(KNOWN, state=JobState.QUEUED)
UNWANTED = replace(KNOWN, is_wanted=False)


def seen(phase: Phase, **more: object) -> Observation:
    usual = {"code": ObservationCode.PENDING, "message": "Waits.", "estimated_start": AT}
    return Observation(phase, **{**usual, **more})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("known", "observed", "change"),
    [
        (QUEUED, seen(Phase.QUEUED), None),
        (QUEUED, seen(Phase.QUEUED, message="Waits for nodes."), Change.QUEUE_REASON),
        (QUEUED, seen(Phase.QUEUED, estimated_start=AT + ESTIMATE_STEP), None),
        (QUEUED, seen(Phase.QUEUED, estimated_start=AT + 2 * ESTIMATE_STEP), Change.QUEUE_REASON),
        (QUEUED, seen(Phase.QUEUED, estimated_start=None), Change.QUEUE_REASON),
        (KNOWN, seen(Phase.QUEUED, message="Waits for nodes."), None),
        (QUEUED, seen(Phase.RUNNING), Change.STARTED),
        (KNOWN, seen(Phase.RUNNING), None),
        (replace(KNOWN, reason_code="credentials_refused"), seen(Phase.RUNNING), Change.POLLS_AGAIN),
        (replace(KNOWN, reason_code="cluster_removed"), seen(Phase.RUNNING), Change.POLLS_AGAIN),
        (KNOWN, seen(Phase.INTERRUPTED), Change.INTERRUPTED),
        (replace(KNOWN, has_ended=True), seen(Phase.INTERRUPTED), None),
        (KNOWN, seen(Phase.ENDED), Change.ENDED),
        (replace(KNOWN, has_ended=True), seen(Phase.ENDED), None),
        (KNOWN, seen(Phase.UNKNOWN), None),
        (KNOWN, seen(Phase.QUEUED, restarts=1), Change.REQUEUED),
        (KNOWN, seen(Phase.ENDED, restarts=1), Change.REQUEUED),
        (UNWANTED, seen(Phase.RUNNING, restarts=1), Change.REQUEUED),
        (UNWANTED, seen(Phase.ENDED, restarts=1), Change.ENDED),
        (replace(KNOWN, restarts=1), seen(Phase.RUNNING, restarts=1), None),
    ],
)
def test_an_observation_changes(known: KnownRun, observed: Observation, change: Change | None) -> None:
    assert change_of(known, observed) is change


@pytest.mark.parametrize(
    ("known", "changes"),
    [
        (KNOWN, {Change.RECOVERY_LIMIT_REACHED}),
        (replace(KNOWN, is_given_up=True), {Change.RECOVERY_LIMIT_REACHED, Change.INTERRUPTED}),
        (UNWANTED, {Change.REQUEUED, Change.INTERRUPTED}),
    ],
)
def test_a_run_that_is_over_may_not_restart(known: KnownRun, changes: set[Change]) -> None:
    assert {change for change in Change if may_not_restart(change, known)} == changes


def test_an_estimate_that_moves_slowly_is_no_change() -> None:
    assert change_of(QUEUED, seen(Phase.QUEUED, estimated_start=AT + timedelta(seconds=1))) is None
