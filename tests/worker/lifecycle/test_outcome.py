"""The end marker decides; the observed exit only where there is none."""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

import pytest

from trainer.events import Failed, Finished, Stopped
from trainer.failures import FAILURES, Evidence, Failure, LogTail
from worker.lifecycle.outcome import decide
from worker.runs.observation import ExitRecord, ObservationCode

AT = datetime(2026, 1, 1, tzinfo=UTC)
FINISHED = Finished(event="finished", at=AT, step=4, iteration=4)
STOPPED = Stopped(event="stopped", at=AT, step=2, iteration=2)
FAILED = Failed(event="failed", at=AT, code="oom", message="CUDA out of memory", rank=3, traceback="...")
LIMIT = ExitRecord(
    code=ObservationCode.TIME_LIMIT, message="The time limit of 1 minutes was reached.", raw="{}"
)
PREEMPTED = ExitRecord(code=ObservationCode.PREEMPTED, message="Ended for a job that goes first.", raw="{}")
EXITED = ExitRecord(code=ObservationCode.EXITED, message="The launcher exited with 1.", raw="{}")


@pytest.mark.parametrize(
    ("marker", "ended", "desired", "complete", "state", "failure"),
    [
        (FINISHED, EXITED, "run", True, "SUCCEEDED", None),
        (FINISHED, EXITED, "run", False, "FAILED", "bad_checkpoint"),
        (FINISHED, EXITED, "cancel", True, "SUCCEEDED", None),  # it was done before the request reached it
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
        (None, ExitRecord(code=ObservationCode.EXITED), "run", False, "FAILED", "unknown"),
        (STOPPED, EXITED, "pause", True, "PAUSED", None),
        (None, PREEMPTED, "pause", False, "PAUSED", None),
        (None, LIMIT, "pause", False, "PAUSED", None),
        (FAILED, LIMIT, "pause", False, "FAILED", "oom"),
        (None, EXITED, "pause", False, "FAILED", "unknown"),
    ],
)
def test_how_a_run_ended(
    marker: Any, ended: Any, desired: str, complete: bool, state: str, failure: str | None
) -> None:
    outcome = decide(marker=marker, ended=ended, desired=desired, checkpoint_is_complete=complete, attempt=2)
    assert (outcome.state, outcome.failure and outcome.failure.failure_class) == (state, failure)
    if outcome.failure:
        assert outcome.failure.evidence.attempt == 2
        assert outcome.failure.recovery


def failure(
    marker: Any = None, ended: Any = EXITED, logs: Sequence[LogTail] = (), name: str | None = None
) -> Failure:
    """Of a run that nobody cancelled; name: what the table has to call it."""
    outcome = decide(
        marker=marker, ended=ended, desired="run", checkpoint_is_complete=False, attempt=2, logs=logs
    )
    assert outcome.failure is not None
    assert name in (None, outcome.explanation)
    assert outcome.reason.raw == "{}"
    return outcome.failure


def test_a_known_failure_has_the_tables_cause_and_the_trainers_line() -> None:
    found = failure(FAILED)
    assert found.cause == "GPU memory is exhausted during forward, backward, or optimizer steps."
    expected = Evidence(attempt=2, rank=3, line="CUDA out of memory", traceback="...")
    assert found.evidence == expected


def test_the_trainers_message_is_cleaned_and_searched_in_all_logs() -> None:
    message = "\x1b[31mRuntimeError: CUDA error: out of memory\x07" + "y" * 5000
    marker = Failed(event="failed", at=AT, code="oom", message=message, rank=5, traceback="...")
    line = failure(marker).evidence.line
    assert line is not None
    assert (len(line), line.isprintable()) == (500, True)
    # The rank's own log is gone; what the launcher has kept of it says the same.
    evidence = failure(marker, logs=[LogTail(None, 7, b"one\n" + OOM)]).evidence
    assert (evidence.rank, evidence.offset, evidence.line) == (None, 11, OOM.decode().strip())


def test_a_rejection_shows_the_trainers_message_and_its_place_in_the_log() -> None:
    message = "There are no shards at /data. Run packing."
    marker = Failed(event="failed", at=AT, code="missing_packed_data", message=message, rank=1)
    log = b"first\n" + f'SFT_EVENT {{"message": "{message}"}}\ntrainer: {message}\nlast\n'.encode()
    found = failure(marker, logs=[LogTail(0, 0, log), LogTail(1, 50, log)])
    assert (found.failure_class, found.cause) == ("missing_packed_data", message)
    assert (found.evidence.rank, found.evidence.line) == (1, f"trainer: {message}")
    place = log.index(b"trainer: ")
    assert (found.evidence.offset, found.evidence.limit) == (50 + place, len(f"trainer: {message}"))


def test_the_code_of_a_check_is_about_the_config() -> None:
    marker = Failed(event="failed", at=AT, code="missing_model", message="No base model is named.")
    assert failure(marker).failure_class == "invalid_config"
    assert failure(marker.model_copy(update={"traceback": "x"})).failure_class == "user_code"


OOM = b"[rank1]: torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.\n"
PEER = b"RuntimeError: [gloo/transport/tcp/pair.cc:545] Connection closed by peer [10.0.0.7]:1\n"
SIGKILL = b"  traceback : Signal 9 (SIGKILL) received by PID 7\n"
LOST = Failed(event="failed", at=AT, code="peer_lost", message=PEER.decode(), rank=0, traceback="...")


def test_a_cause_wins_over_an_earlier_consequence() -> None:
    """Rank 1 had no memory; rank 0 was the first to say something: that rank 1 is gone."""
    logs = [LogTail(0, 0, PEER), LogTail(1, 10, b"hello\n" + OOM), LogTail(None, 0, PEER + OOM)]
    found = failure(LOST, logs=logs)
    assert (found.failure_class, found.evidence.rank, found.evidence.offset) == ("oom", 1, 16)
    assert found.evidence.line == OOM.decode().strip()
    assert found.evidence.traceback is None


def test_of_equal_causes_that_of_the_rank_that_failed_first_wins() -> None:
    disk = b"OSError: [Errno 28] No space left on device\n"
    marker = Failed(event="failed", at=AT, code="user_code", message="boom", rank=1, traceback="...")
    logs = [LogTail(0, 0, disk), LogTail(1, 0, OOM)]
    assert failure(marker, logs=logs).failure_class == "oom"
    assert failure(None, logs=logs).failure_class == "disk_full"
    assert failure(None, logs=[LogTail(None, 0, disk)]).evidence.rank is None


@pytest.mark.parametrize(
    ("code", "name"),
    [("node_fail", "node_fail"), ("preempted", "preempted"), ("oom_killed", "host_oom"),
     ("killed", "node_fail"), ("start_failed", "scheduler_rejected"), ("exited", "killed"),
     ("image_pull", "image_pull")],
)  # fmt: skip
def test_the_observed_exit_counts_where_ranks_only_vanished(code: str, name: str) -> None:
    ended = ExitRecord(code=ObservationCode(code), message="So it was.", raw="{}")
    logs = [LogTail(0, 0, PEER), LogTail(None, 0, SIGKILL)]
    found = failure(LOST, ended, logs, name)
    assert found.cause == ("So it was." if code != "exited" else FAILURES["killed"].cause)
    assert failure(LOST, ended, [*logs, LogTail(1, 0, OOM)], "oom").failure_class == "oom"


def test_a_run_that_stopped_well_is_not_searched_for_errors() -> None:
    assert failure(STOPPED, LIMIT, [LogTail(0, 0, OOM)], "time_limit").retryable


AGAIN = b"This attempt has begun before: the service begins another one.\n"


@pytest.mark.parametrize("marker", [None, Stopped(event="stopped", at=AT, step=2, reason="terminated")])
def test_a_run_that_its_cluster_restarted_was_interrupted(marker: Any) -> None:
    found = failure(marker, logs=[LogTail(None, 0, b"Received 15 death signal\n" + AGAIN)], name="preempted")
    assert (found.retryable, found.evidence.line) == (True, AGAIN.decode().strip())
    assert failure(marker, name=None).failure_class == "unknown"


def test_a_failure_that_nothing_explains_is_unknown_and_shows_the_last_lines() -> None:
    found = failure(None, logs=[LogTail(0, 0, b"one\ntwo\n"), LogTail(None, 0, b"launcher\n")])
    assert (found.failure_class, found.retryable) == ("unknown", True)
    assert "The launcher exited with 1." in found.cause
    assert (found.evidence.line, found.evidence.last_lines) == (None, ["one", "two"])


def test_logs_are_read_only_where_a_run_failed() -> None:
    def unread() -> Iterator[LogTail]:
        raise AssertionError("read")
        yield

    for marker, desired, complete in ((FINISHED, "run", True), (FAILED, "cancel", False)):
        decide(
            marker=marker,
            ended=EXITED,
            desired=desired,
            checkpoint_is_complete=complete,
            attempt=1,
            logs=unread(),
        )
