"""Map rows of Slurm's commands to observations. Pure."""

from worker.backends.slurm.command_output import UNREADABLE, Row
from worker.backends.slurm.exit_codes import CLAIMED, NO_SECRETS, UNPREPARED
from worker.backends.slurm.states import STATES, pending_reason
from worker.runs.observation import Meaning, Observation, ObservationCode, Phase

GONE = Observation(
    Phase.UNKNOWN, ObservationCode.UNKNOWN_TO_SCHEDULER, "Neither the queue nor accounting knows the job."
)
UNANSWERED = Observation(
    Phase.UNKNOWN,
    ObservationCode.ACCOUNTING_UNAVAILABLE,
    "The queue does not know the job, and accounting is down.",
)

# Exit code of the batch script -> code and message.
EXITS = {
    128 + 53: (  # `0:53`: the script could not be started
        ObservationCode.START_FAILED,
        "Slurm could not use the job's directory. Check that all nodes see it and that the user owns it.",
    ),
    128 + 9: (
        ObservationCode.EXITED,
        "The run was killed by signal 9: the host's memory may have been exhausted.",
    ),
    UNPREPARED: (
        ObservationCode.IMAGE_PULL,
        "The container image is missing, or could not be prepared.",
    ),
    NO_SECRETS: (
        ObservationCode.EXITED,
        "The secrets file was missing when the run started: an earlier run of the job had ended.",
    ),
}


def observation(row: Row) -> Observation | None:
    """Return a row's observation; None if its state is unknown, which means no change."""
    meaning = _meaning(row)
    if meaning is None:
        return None
    return Observation(
        meaning.phase,
        meaning.code,
        meaning.message,
        raw=row.raw,
        external_id=row.job_id,
        restarts=row.restarts,
        estimated_start=row.start if meaning.phase is Phase.QUEUED else None,
    )


def _meaning(row: Row) -> Meaning | None:
    if row.state == "PENDING":
        return pending_reason(row.reason)
    if row.state == "FAILED":
        return _failed(row)
    if row.state == "CANCELLED" and row.reason == "DependencyNeverSatisfied":
        return Meaning(Phase.ENDED, ObservationCode.IMAGE_PULL, "The import of the container image failed.")
    return STATES.get(row.state)


def _failed(row: Row) -> Meaning:
    usual = (ObservationCode.EXITED, f"The launcher exited with {row.exit_code}.")
    return Meaning(Phase.ENDED, *EXITS.get(row.exit_code, usual))


def chosen(rows: list[Row]) -> Row:
    """Return the row that owns the attempt, among the rows of one name. Duplicates have exited or wait."""
    return min(rows, key=_rank)


def _rank(row: Row) -> tuple[int, int]:
    return _RANKS.get(_status(row), 0), int(row.job_id)


# Any other status is rank 0: the job has started, so it has the claim. A pending job may get the claim; a
# cancelled one may never have started, as duplicates are cancelled while pending. An unreadable row comes
# first: its job may have the claim, so the other rows prove nothing.
_RANKS = {UNREADABLE: -1, "PENDING": 1, "CANCELLED": 2, "duplicate": 3}


def _status(row: Row) -> str:
    if row.exit_code == CLAIMED and row.state in ("FAILED", "COMPLETING"):
        return "duplicate"
    return "restarted" if row.restarts else row.state
