"""The trainer's marker decides; the backend's word only where there is none."""

from datetime import UTC, datetime
from typing import Any

import pytest

from worker.outcome import decide
from worker.run_events import Failed, Finished, Stopped

AT = datetime(2026, 1, 1, tzinfo=UTC)
FINISHED = Finished(event="finished", at=AT, step=4, iteration=4)
STOPPED = Stopped(event="stopped", at=AT, step=2, iteration=2)
FAILED = Failed(event="failed", at=AT, code="oom", message="CUDA out of memory", rank=3, traceback="...")
LIMIT = {"code": "time_limit", "message": "The time limit of 1 minutes was reached.", "raw": "{}"}
EXITED = {"code": "exited", "message": "The launcher exited with 1.", "raw": "{}"}


@pytest.mark.parametrize(
    ("marker", "ended", "desired", "whole", "state", "failure"),
    [
        (FINISHED, EXITED, "run", True, "SUCCEEDED", None),
        (FINISHED, EXITED, "run", False, "FAILED", "bad_checkpoint"),
        (FINISHED, EXITED, "cancel", True, "SUCCEEDED", None),  # it was done before the wish reached it
        (FINISHED, EXITED, "cancel", False, "CANCELLED", None),
        (FINISHED, LIMIT, "run", True, "SUCCEEDED", None),
        (FAILED, EXITED, "run", False, "FAILED", "oom"),
        (FAILED, LIMIT, "run", False, "FAILED", "oom"),
        (FAILED, EXITED, "cancel", False, "CANCELLED", None),
        (Failed(event="failed", at=AT), EXITED, "run", False, "FAILED", "unknown"),
        (STOPPED, LIMIT, "run", True, "FAILED", "time_limit"),
        (STOPPED, EXITED, "run", True, "FAILED", "unknown"),
        (STOPPED, EXITED, "cancel", True, "CANCELLED", None),
        (None, LIMIT, "run", False, "FAILED", "time_limit"),
        (None, EXITED, "run", True, "FAILED", "unknown"),
        (None, EXITED, "cancel", False, "CANCELLED", None),
        (None, {}, "run", False, "FAILED", "unknown"),
    ],
)
def test_how_a_run_ended(
    marker: Any, ended: Any, desired: str, whole: bool, state: str, failure: str | None
) -> None:
    outcome = decide(marker=marker, ended=ended, desired=desired, checkpoint_is_whole=whole, attempt=2)
    assert (outcome.state, outcome.failure and outcome.failure["class"]) == (state, failure)
    if outcome.failure:
        assert outcome.failure["evidence"]["attempt"] == 2
        assert outcome.failure["recovery"]


def test_a_failure_carries_the_trainers_own_words() -> None:
    outcome = decide(marker=FAILED, ended=EXITED, desired="run", checkpoint_is_whole=False, attempt=1)
    assert outcome.failure is not None
    assert outcome.failure["cause"] == "CUDA out of memory"
    assert outcome.failure["evidence"] == {"attempt": 1, "rank": 3, "traceback": "..."}
    assert outcome.reason.raw == "{}"
