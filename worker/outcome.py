"""What the end of a run means for its job. Pure: the trainer's marker first, the backend's word second."""

from dataclasses import dataclass

from trainer.failures import explain
from worker.jobs import Reason
from worker.models import Json
from worker.run_events import Ending, Failed, Finished, Stopped
from worker.states import DesiredState, JobState


@dataclass(frozen=True)
class Outcome:
    state: JobState
    reason: Reason
    failure: Json | None = None


def decide(
    *,
    marker: Ending | None,
    ended: Json,
    desired: str,
    checkpoint_is_whole: bool,
    attempt: int,
) -> Outcome:
    """The final state of a job whose run is over.

    marker: the trainer's end.json, or None where the run was killed before it could write one.
    ended: the backend's observation (code, message, raw). Exit codes do not count: they do not cross
        torchrun.
    """
    if isinstance(marker, Finished) and checkpoint_is_whole:
        return Outcome(JobState.SUCCEEDED, Reason("finished", "All steps done, final checkpoint complete."))
    if desired == DesiredState.CANCEL:
        return Outcome(JobState.CANCELLED, Reason("cancelled", ended.get("message") or "Cancelled."))
    code, cause = _failure(marker, ended)
    failure = explain(code, cause=cause).model_dump(by_alias=True)
    evidence = {"attempt": attempt, **_evidence(marker)}
    return Outcome(
        JobState.FAILED, Reason(failure["class"], cause, ended.get("raw")), {**failure, "evidence": evidence}
    )


def _failure(marker: Ending | None, ended: Json) -> tuple[str, str]:
    """The failure's code and its cause in one sentence."""
    if isinstance(marker, Failed):
        return marker.code, marker.message
    if ended.get("code") == "time_limit":
        return "time_limit", ended.get("message", "The time limit was reached.")
    match marker:
        case Finished():
            return "bad_checkpoint", "The run finished, but its final checkpoint is missing or not whole."
        case Stopped():
            return "unknown", f"The run was stopped at step {marker.step} by its stop file."
    return "unknown", f"The run ended without a word from the trainer. {ended.get('message', '')}".strip()


def _evidence(marker: Ending | None) -> Json:
    if not isinstance(marker, Failed):
        return {}
    return marker.model_dump(include={"rank", "traceback"}, exclude_none=True)
