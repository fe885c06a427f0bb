"""Parse the output of Slurm's commands and map it to observations. Lines are from Slurm 22.05."""

from datetime import UTC, datetime

import pytest

from tests.support.slurm_commands import queue_line
from worker.backends.slurm.command_output import SEPARATOR, Row, history_rows, queue_rows, submission_error
from worker.backends.slurm.observations import chosen, observation
from worker.backends.slurm.states import PERMANENT_REASONS, STATES, TEMPORARY_REASONS, pending_reason
from worker.errors import BackendUnavailable, SubmissionRejected
from worker.runs.observation import Phase


def row(state: str, code: int = 0, **more: object) -> Row:
    fields = {"job_id": "7", "name": "job-1.1", "reason": "None", **more}
    return Row(state=state, exit_code=code, **fields)  # type: ignore[arg-type]


def test_a_queue_line_is_parsed_completely() -> None:
    [found] = queue_rows(queue_line(RestartCnt="2", Name="größe und mehr"))
    assert (found.job_id, found.state, found.restarts, found.reason) == ("7", "PENDING", 2, "Priority")
    assert found.name == "größe und mehr"
    assert found.start == datetime(2026, 11, 24, 0, 46, 55, tzinfo=UTC)
    [without] = queue_rows(queue_line(StartTime="N/A"))
    assert without.start is None


@pytest.mark.parametrize(("status", "code"), [("0", 0), ("512", 2), ("19200", 75), ("9", 137), ("13568", 53)])
def test_a_wait_status_becomes_an_exit_code(status: str, code: int) -> None:
    [found] = queue_rows(queue_line(exit_code=status))
    assert found.exit_code == code


@pytest.mark.parametrize(
    ("fields", "state", "code"),
    [
        (("7", "job-1.1", "CANCELLED by 0", "0:15", "None", "1795481215"), "CANCELLED", 143),
        (("7", "job-1.1", "COMPLETED", "0:0", "None", "Unknown"), "COMPLETED", 0),
        (("7", "job-1.1", "FAILED", "3:0", "NonZeroExitCode", "1795481215"), "FAILED", 3),
        (("7", "job-1.1", "FAILED", "0:53", "RaisedSignal:53(Real-time_signal_19)", "None"), "FAILED", 181),
    ],
)
def test_an_accounting_line_is_parsed(fields: tuple[str, ...], state: str, code: int) -> None:
    [found] = history_rows(SEPARATOR.join(fields))
    assert (found.state, found.exit_code, found.name) == (state, code, "job-1.1")


@pytest.mark.parametrize("line", ["", "Welcome!", "7", "a\x1fb\x1fc"])
def test_other_lines_are_skipped(line: str) -> None:
    assert queue_rows(line) == []
    assert history_rows(line) == []


# -- states ----------------------------------------------------------------------------------------


def test_every_state_of_slurm_has_a_meaning_or_is_no_change() -> None:
    # squeue(1), "JOB STATE CODES".
    known = set(STATES) | {"COMPLETING", "POWER_UP_NODE", "REVOKED"}
    assert {"CONFIGURING", "OUT_OF_MEMORY", "PREEMPTED", "REQUEUED", "STAGE_OUT", "TIMEOUT"} <= known
    for state in known - set(STATES):
        assert observation(row(state)) is None
    assert observation(row("SOMETHING_NEW")) is None


@pytest.mark.parametrize(
    ("seen", "phase", "code"),
    [
        (row("RUNNING"), Phase.RUNNING, "running"),
        (row("COMPLETED"), Phase.ENDED, "exited"),
        (row("FAILED", 1), Phase.ENDED, "exited"),
        (row("FAILED", 181), Phase.ENDED, "start_failed"),
        (row("FAILED", 137), Phase.ENDED, "exited"),
        (row("FAILED", 78), Phase.ENDED, "image_pull"),
        (row("FAILED", 66), Phase.ENDED, "exited"),
        (row("CANCELLED"), Phase.ENDED, "cancelled"),
        (row("CANCELLED", reason="DependencyNeverSatisfied"), Phase.ENDED, "image_pull"),
        (row("TIMEOUT"), Phase.ENDED, "time_limit"),
        (row("OUT_OF_MEMORY"), Phase.ENDED, "oom_killed"),
        (row("PREEMPTED"), Phase.INTERRUPTED, "preempted"),
        (row("NODE_FAIL"), Phase.INTERRUPTED, "node_fail"),
        (row("REQUEUE_HOLD"), Phase.QUEUED, "held"),
    ],
)
def test_states_map_to_phases_and_codes(seen: Row, phase: Phase, code: str) -> None:
    found = observation(seen)
    assert found is not None
    assert (found.phase, found.code) == (phase, code)


def test_only_a_pending_job_has_an_estimated_start() -> None:
    moment = datetime(2026, 11, 24, tzinfo=UTC)
    waits, runs = observation(row("PENDING", start=moment)), observation(row("RUNNING", start=moment))
    assert waits is not None
    assert runs is not None
    assert (waits.estimated_start, runs.estimated_start) == (moment, None)


@pytest.mark.parametrize(
    "reason", [*PERMANENT_REASONS, "QOSMaxNodePerJobLimit", "AssocMaxWallDurationPerJobLimit"]
)
def test_a_permanent_reason_is_reported(reason: str) -> None:
    found = pending_reason(reason)
    assert (found.code, found.phase) == ("never_runs", Phase.QUEUED)
    assert found.message.startswith("Can never run as submitted: ")
    assert reason in found.message


@pytest.mark.parametrize(
    ("reason", "says"),
    [
        ("Resources", "Waits for nodes to become free."),
        ("ReqNodeNotAvail, UnavailableNodes:n1", "The requested nodes are not available now"),
        ("Nodes required for job are DOWN, DRAINED or reserved for job", "are down, drained or reserved"),
        ("SomethingNew", "Waits in the queue. (Slurm: SomethingNew)"),
    ],
)
def test_a_temporary_reason_is_explained(reason: str, says: str) -> None:
    found = pending_reason(reason)
    assert says in found.message
    assert found.code == "pending"
    assert set(TEMPORARY_REASONS).isdisjoint(PERMANENT_REASONS)


def test_the_row_with_the_claim_is_chosen_among_duplicates() -> None:
    duplicate, runs, waits = (
        row("FAILED", 75, job_id="5"),
        row("RUNNING", job_id="6"),
        row("PENDING", job_id="4"),
    )
    assert chosen([duplicate, runs, waits]) is runs
    assert chosen([waits, duplicate]) is waits
    assert chosen([duplicate, row("COMPLETED", job_id="9")]).job_id == "9"


# -- rejections ------------------------------------------------------------------------------------

REJECTED = "sbatch: error: Batch job submission failed: "


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("Invalid partition name specified", "partition"),
        ("Invalid account or account/partition combination specified", "account"),
        ("Invalid qos specification", "qos"),
        ("Requested node configuration is not available", "fewer"),
        ("Node count specification invalid", "fewer nodes"),
        ("Requested time limit is invalid (missing or exceeds some limit)", "less time"),
        ("Pathname of a file, directory or other parameter too long", "Shorten"),
        ("The site's own rule 42", ""),
    ],
)
def test_a_rejection_has_slurms_own_message(text: str, hint: str) -> None:
    found = submission_error(1, f"{REJECTED}{text}\n")
    assert isinstance(found, SubmissionRejected)
    assert found.message == f"Slurm rejected the job: Batch job submission failed: {text}"
    assert hint in (found.hint or "")


def test_an_invalid_sbatch_option_is_a_rejection() -> None:
    found = submission_error(255, "sbatch: error: Invalid --mem specification\n")
    assert isinstance(found, SubmissionRejected)
    assert found.message == "Slurm rejected the job: Invalid --mem specification"
    assert "profile" in (found.hint or "")


@pytest.mark.parametrize(
    ("code", "text"),
    [
        (1, f"{REJECTED}Unable to contact slurm controller (connect failure)"),
        (1, f"{REJECTED}Socket timed out on send/recv operation"),
        (1, "sbatch: error: Slurm temporarily unable to accept job, sleeping and retrying"),
        (1, "sbatch: error: Munge encode failed: Failed to connect to socket"),
        (1, "sbatch: fatal: Unable to process configuration file"),
        (1, f"{REJECTED}Required partition not available (inactive or drain)"),
        (1, f"{REJECTED}I/O error writing script/environment to file"),
        (255, "sbatch: error: Unable to contact slurm controller (connect failure)"),
        (127, "bash: line 10: sbatch: command not found"),
    ],
)  # fmt: skip
def test_an_error_that_is_no_rejection_is_retried(code: int, text: str) -> None:
    assert isinstance(submission_error(code, text), BackendUnavailable)
