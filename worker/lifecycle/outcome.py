"""What the end of a run means for its job. Pure.

The trainer's marker and the logs of its ranks say why it ended; the backend's word counts where they do not.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from trainer.events import Ending, Failed, Finished, Stopped
from trainer.failures import (
    FAILURES,
    Evidence,
    Failure,
    LogMatch,
    LogTail,
    Weight,
    clean,
    explain,
    known_as,
    match_log,
)
from trainer.run_layout import STOP_PREEMPTION, STOP_TERMINATED, STOP_TIME_LIMIT
from worker.runs.observation import ExitRecord, ObservationCode
from worker.states import DesiredState, JobState, Reason

# The failure (a name of FAILURES) that an observed end means.
FAILURE_OF_EXIT = {
    ObservationCode.PREEMPTED: "preempted",
    ObservationCode.NODE_FAIL: "node_fail",
    ObservationCode.KILLED: "node_fail",
    ObservationCode.TIME_LIMIT: "time_limit",
    ObservationCode.IMAGE_PULL: "image_pull",
    ObservationCode.OOM_KILLED: "host_oom",
    ObservationCode.START_FAILED: "scheduler_rejected",
}
# The failure that a stop file meant, where no client had requested the stop.
FAILURE_OF_STOP = {STOP_TIME_LIMIT: "time_limit", STOP_PREEMPTION: "preempted"}
# The scheduler, or somebody there, ended the run: it had no time to write an end marker.
CUT_OFF = (ObservationCode.PREEMPTED, ObservationCode.NODE_FAIL, ObservationCode.CANCELLED)


@dataclass(frozen=True)
class Explanation:
    """Why a run failed: a name of FAILURES, in its own words, and where it shows."""

    name: str
    cause: str | None = None
    """None: as the table has it."""
    sign: LogMatch | None = None
    rank: int | None = None
    line: str | None = None
    traceback: str | None = None

    def evidence(self, attempt: int, last_lines: list[str]) -> Evidence:
        rank = self.sign.rank if self.sign else self.rank
        place = {"offset": self.sign.offset, "limit": self.sign.limit} if self.sign else {}
        line = self.sign.line if self.sign else self.line
        return Evidence(
            attempt=attempt, rank=rank, line=line, traceback=self.traceback,
            last_lines=[] if line else last_lines, **place,
        )  # fmt: skip


@dataclass(frozen=True)
class Outcome:
    state: JobState
    reason: Reason
    explanation: str | None = None
    """Of a failure: its name in FAILURES."""
    failure: Failure | None = None


def decide(
    *,
    marker: Ending | None,
    ended: ExitRecord,
    desired: str,
    checkpoint_is_complete: bool,
    attempt: int,
    logs: Iterable[LogTail] = (),
) -> Outcome:
    """The final state of a job whose run is over.

    marker: the trainer's end.json, or None where the run was killed before it could write one.
    ended: the backend's observation (code, message, raw). Exit codes do not count: they do not cross
        torchrun.
    logs: the ends of the ranks' logs and of the launcher's; read only where the run failed.
    """
    if isinstance(marker, Finished) and checkpoint_is_complete:
        return Outcome(JobState.SUCCEEDED, Reason("finished", "All steps done, final checkpoint complete."))
    if desired == DesiredState.CANCEL:
        return Outcome(JobState.CANCELLED, Reason("cancelled", ended.message or "Cancelled."))
    if ended.code is ObservationCode.CANCELLED and _has_no_own_end(marker) and desired == DesiredState.RUN:
        message = "Cancelled on the cluster, and not through this service."
        return Outcome(JobState.CANCELLED, Reason("cancelled_on_cluster", message, ended.raw))
    if desired == DesiredState.PAUSE and _has_stopped(marker, ended.code):
        return Outcome(JobState.PAUSED, _paused(marker))
    seen = _look(logs, marker)
    explanation = _explanation(marker, ended, seen)
    failure = explain(
        explanation.name, cause=explanation.cause, evidence=explanation.evidence(attempt, seen.last_lines)
    )
    reason = Reason(failure.failure_class, failure.cause, ended.raw)
    vanished = ended.code is ObservationCode.VANISHED and explanation.name == "unknown"
    return Outcome(JobState.LOST if vanished else JobState.FAILED, reason, explanation.name, failure)


def _has_stopped(marker: Ending | None, code: ObservationCode) -> bool:
    """Whether the end of a run was one that its pause asked for, or that came before it could be heeded."""
    return (
        isinstance(marker, Stopped)
        or code in CUT_OFF
        or (marker is None and code is ObservationCode.TIME_LIMIT)
    )


def _has_no_own_end(marker: Ending | None) -> bool:
    return marker is None or (isinstance(marker, Stopped) and marker.reason == STOP_TERMINATED)


def _paused(marker: Ending | None) -> Reason:
    if isinstance(marker, Stopped) and marker.iteration is not None:
        return Reason("paused", f"Saved and stopped at step {marker.step}.")
    return Reason("paused", "Stopped before it could save; it will go on from its last complete checkpoint.")


# -- what there is to see --------------------------------------------------------------------------


@dataclass(frozen=True)
class _Seen:
    """What the logs say."""

    best: LogMatch | None
    """The sign that explains most; of equal ones the first, in the log of the rank that failed first."""
    of_marker: LogMatch | None
    """Where the trainer's own last message stands."""
    last_lines: list[str]
    """The end of the first rank's log, or of the launcher's."""


def _look(logs: Iterable[LogTail], marker: Ending | None) -> _Seen:
    first = marker.rank if isinstance(marker, Failed) else None
    found: list[LogMatch] = []
    last_lines: list[str] = []
    of_marker = None
    for log in logs:
        here = match_log(log)
        found += here
        last_lines = last_lines or log.last_lines()
        if isinstance(marker, Failed) and log.rank == first:
            of_marker = _sign_of(marker, log, here)
    best = min(found, key=lambda sign: _order(sign, first), default=None)
    return _Seen(best, of_marker, last_lines)


def _order(sign: LogMatch, first: int | None) -> tuple[int, bool, bool, int, int]:
    """A cause before its consequences; ranks before the launcher, whose log repeats theirs."""
    return sign.weight, sign.rank is None, sign.rank != first, sign.rank or 0, sign.offset


def _sign_of(marker: Failed, log: LogTail, here: list[LogMatch]) -> LogMatch | None:
    """Where in its rank's log the failure stands that the trainer has written down."""
    same = next((sign for sign in here if sign.name == marker.code), None)
    place = log.find(next(iter(marker.message.splitlines()), "").rstrip(": "))
    if same or place is None:
        return same
    begin, end = place
    return LogMatch(_name(marker), log.rank, log.offset + begin, end - begin, log.line(begin, end))


# -- what it comes to ------------------------------------------------------------------------------


def _explanation(marker: Ending | None, ended: ExitRecord, seen: _Seen) -> Explanation:
    """The likeliest of all explanations."""
    exit_failure = FAILURE_OF_EXIT.get(ended.code)
    match marker:
        case Finished():
            return Explanation(
                "bad_checkpoint", "The run finished, but its final checkpoint is missing or incomplete."
            )
        case Stopped(reason=reason) if reason in FAILURE_OF_STOP:
            return Explanation(FAILURE_OF_STOP[reason])
        case Stopped(reason=reason) if (
            reason == STOP_TERMINATED and seen.best and seen.best.name == "preempted"
        ):
            return _shown(seen.best)
        case Stopped() if ended.code not in FAILURES:
            return Explanation("unknown", f"The run was stopped at step {marker.step} by its stop file.")
    silent = f"The run ended without a word from the trainer. {ended.message}".strip()
    candidates: list[tuple[Weight, Explanation]] = []
    if isinstance(marker, Failed):
        own = _told(marker, seen)
        candidates.append((FAILURES[own.name].weight, own))
    if seen.best and not isinstance(marker, Stopped):
        candidates.append((seen.best.weight, _shown(seen.best)))
    if exit_failure:
        candidates.append((Weight.WORD, Explanation(exit_failure, ended.message or None)))
    # Of equal ones min takes the first: the trainer's own word.
    return min(candidates, key=lambda one: one[0], default=(Weight.ECHO, Explanation("unknown", silent)))[1]


def _told(marker: Failed, seen: _Seen) -> Explanation:
    """What the trainer says. What it refused, and what it does not know, it tells in its own words."""
    name = _name(marker)
    own_words = marker.traceback is None or name in ("user_code", "unknown", "invalid_config")
    return Explanation(
        name,
        marker.message if own_words else None,
        sign=seen.of_marker or (seen.best if seen.best and seen.best.name == name else None),
        rank=marker.rank,
        line=clean(next(iter(marker.message.splitlines()), "")) or None,
        traceback=marker.traceback,
    )


def _name(marker: Failed) -> str:
    """A refusal's code may be that of a check: then it is about the config."""
    if marker.traceback and marker.code not in FAILURES:
        return "user_code"
    return known_as(marker.code)


def _shown(sign: LogMatch) -> Explanation:
    return Explanation(sign.name, sign.line if sign.name == "user_code" else None, sign=sign)
