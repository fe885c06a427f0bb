"""What the end of a run means for its job. Pure: the trainer's marker first, the backend's word second."""

from dataclasses import dataclass

from trainer.failures import explain
from worker.jobs import Reason
from worker.models import Json
from worker.states import DesiredState, JobState


@dataclass(frozen=True)
class Outcome:
    state: JobState
    reason: Reason
    failure: Json | None = None


def decide(
    *,
    marker: Json | None,
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
    kind = marker["event"] if marker else None
    if kind == "finished" and checkpoint_is_whole:
        return Outcome(JobState.SUCCEEDED, Reason("finished", "All steps done, final checkpoint complete."))
    if desired == DesiredState.CANCEL:
        return Outcome(JobState.CANCELLED, Reason("cancelled", ended.get("message") or "Cancelled."))
    code, cause = _failure(marker, kind, ended)
    failure = explain(code, cause=cause).model_dump(by_alias=True)
    evidence = {"attempt": attempt, **_evidence(marker)}
    return Outcome(
        JobState.FAILED, Reason(failure["class"], cause, ended.get("raw")), {**failure, "evidence": evidence}
    )


def _failure(marker: Json | None, kind: str | None, ended: Json) -> tuple[str, str]:
    """The failure's code and its cause in one sentence."""
    if kind == "failed" and marker:
        return marker.get("code", "unknown"), marker.get("message", "The trainer failed.")
    if ended.get("code") == "time_limit":
        return "time_limit", ended.get("message", "The time limit was reached.")
    if kind == "finished":
        return "bad_checkpoint", "The run finished, but its final checkpoint is missing or not whole."
    if kind == "stopped" and marker:
        return "unknown", f"The run was stopped at step {marker.get('step')} by its stop file."
    return "unknown", f"The run ended without a word from the trainer. {ended.get('message', '')}".strip()


def _evidence(marker: Json | None) -> Json:
    if not marker:
        return {}
    return {key: marker[key] for key in ("rank", "traceback") if marker.get(key) is not None}
