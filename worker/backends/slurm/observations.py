"""From rows of Slurm to observations. Pure."""

from worker.backends.slurm.command_output import UNREADABLE, Row
from worker.backends.slurm.exit_codes import CLAIMED, NO_SECRETS, UNPREPARED
from worker.backends.slurm.states import STATES, Meaning, waiting
from worker.runs.observation import Observation, ObservationCode, Phase

GONE = Observation(
    Phase.UNKNOWN, ObservationCode.UNKNOWN_TO_SCHEDULER, "Neither the queue nor the accounting knows it."
)
UNANSWERED = Observation(
    Phase.UNKNOWN, ObservationCode.ACCOUNTING_UNAVAILABLE, "The queue does not know it; accounting is down."
)

# Exit code of the batch script -> code and words.
EXITS = {
    128 + 53: (  # `0:53`: it could not be started
        ObservationCode.START_FAILED,
        "Slurm could not use the job's directory: is it there on all nodes, and its user's?",
    ),
    128 + 9: (
        ObservationCode.EXITED,
        "The run was killed by signal 9: the host's memory may have been exhausted.",
    ),
    UNPREPARED: (
        ObservationCode.IMAGE_PULL,
        "Its container image is not there, or it could not be prepared.",
    ),
    NO_SECRETS: (
        ObservationCode.EXITED,
        "The file of its secrets was gone when it began: an earlier run of it had ended.",
    ),
}


def observation(row: Row) -> Observation | None:
    """What a row says, or None where that is no news."""
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
        return waiting(row.reason)
    if row.state == "FAILED":
        return _failed(row)
    if row.state == "CANCELLED" and row.reason == "DependencyNeverSatisfied":
        return Meaning(Phase.ENDED, ObservationCode.IMAGE_PULL, "The import of its container image failed.")
    return STATES.get(row.state)


def _failed(row: Row) -> Meaning:
    usual = (ObservationCode.EXITED, f"The launcher exited with {row.exit_code}.")
    return Meaning(Phase.ENDED, *EXITS.get(row.exit_code, usual))


def chosen(rows: list[Row]) -> Row:
    """Of the rows of one name the one that has the attempt: not a doubled submission that gave way."""
    return min(rows, key=_rank)


def _rank(row: Row) -> tuple[int, int]:
    return _CHANCES.get(_way(row), 0), int(row.job_id)


# Who has begun has the claim; who waits may get it; who was cancelled may never have begun, as doubles are.
# Of one that nobody can read nothing is known, and so nothing of the others.
_CHANCES = {UNREADABLE: -1, "PENDING": 1, "CANCELLED": 2, "gave way": 3}


def _way(row: Row) -> str:
    if row.exit_code == CLAIMED and row.state in ("FAILED", "COMPLETING"):
        return "gave way"
    return "begun" if row.restarts else row.state
