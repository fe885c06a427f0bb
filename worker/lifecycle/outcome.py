"""What the end of a run means for its job. Pure.

The end marker and the logs of the ranks explain the end; the observed exit counts where they do not.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from trainer.events import Ending, Finished, Stopped
from trainer.failures import Failure, LogTail, explain
from trainer.run_layout import STOP_TERMINATED
from worker.lifecycle.explanation import likeliest, read_logs
from worker.runs.observation import ExitRecord, ObservationCode
from worker.states import DesiredState, JobState, Reason

# The scheduler, or somebody there, ended the run: it had no time to write an end marker.
CUT_OFF = (ObservationCode.PREEMPTED, ObservationCode.NODE_FAIL, ObservationCode.CANCELLED)


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
    """Return the final state of a job whose run is over.

    marker: the trainer's end.json, or None where the run was killed before it could write one.
    ended: the backend's observation. Exit codes do not count: they do not cross torchrun.
    logs: the ends of the ranks' logs and of the launcher's; read only where the run failed.
    """
    if isinstance(marker, Finished) and checkpoint_is_complete:
        return Outcome(JobState.SUCCEEDED, Reason("finished", "All steps done, final checkpoint complete."))
    if desired == DesiredState.CANCEL:
        return Outcome(JobState.CANCELLED, Reason("cancelled", ended.message or "Cancelled."))
    if desired == DesiredState.RUN and _was_cancelled_there(marker, ended):
        message = "Cancelled on the cluster, and not through this service."
        return Outcome(JobState.CANCELLED, Reason("cancelled_on_cluster", message, ended.raw))
    if desired == DesiredState.PAUSE and _has_stopped(marker, ended.code):
        return Outcome(JobState.PAUSED, _paused(marker))
    return _failed(marker, ended, attempt, logs)


def _was_cancelled_there(marker: Ending | None, ended: ExitRecord) -> bool:
    was_terminated = isinstance(marker, Stopped) and marker.reason == STOP_TERMINATED
    return ended.code is ObservationCode.CANCELLED and (marker is None or was_terminated)


def _has_stopped(marker: Ending | None, code: ObservationCode) -> bool:
    """Whether a run ended as its pause request asked, or before it could observe that request."""
    if marker is None and code is ObservationCode.TIME_LIMIT:
        return True
    return isinstance(marker, Stopped) or code in CUT_OFF


def _paused(marker: Ending | None) -> Reason:
    if isinstance(marker, Stopped) and marker.iteration is not None:
        return Reason("paused", f"Saved and stopped at step {marker.step}.")
    return Reason("paused", "Stopped before it could save; it will resume from its last complete checkpoint.")


def _failed(marker: Ending | None, ended: ExitRecord, attempt: int, logs: Iterable[LogTail]) -> Outcome:
    found = read_logs(logs, marker)
    explanation = likeliest(marker, ended, found)
    evidence = explanation.evidence(attempt, found.last_lines)
    failure = explain(explanation.name, cause=explanation.cause, evidence=evidence)
    reason = Reason(failure.failure_class, failure.cause, ended.raw)
    vanished = ended.code is ObservationCode.VANISHED and explanation.name == "unknown"
    return Outcome(JobState.LOST if vanished else JobState.FAILED, reason, explanation.name, failure)
