"""One poll of a workspace: from Lepton's jobs to observations."""

import time
from contextlib import suppress

from worker.backends.interface import Handle
from worker.backends.lepton import wire
from worker.backends.lepton.client import Absent, Workspace
from worker.backends.lepton.notes import (
    COMPLETED,
    EVENTS_READ,
    OVERTIME,
    REQUEUED,
    STARTED,
    UNEXPLAINED,
    Notes,
)
from worker.backends.lepton.states import ARCHIVED, END_REASONS, REQUEUED_STATES, STATES
from worker.errors import BackendUnavailable
from worker.runs.observation import Meaning, Observation, ObservationCode, Phase
from worker.telemetry.logging import logger

log = logger(__name__)

# A run ends itself at its time limit; a run that hangs is stopped so long after it.
OVERTIME_SECONDS = 180.0
# Limits of queries about single jobs in one poll; the next poll queries others.
MAX_QUERIES = 20
QUERIES_SECONDS = 20.0
# Least time between two reads of a starting job's events.
EVENTS_SECONDS = 60.0
# For so long a failed job's events are read again if Lepton does not answer.
EXPLAIN_SECONDS = 300.0
# A requeued job that was stopped counts as ended after this time, whatever state Lepton reports.
STOP_SECONDS = 120.0

GONE = Observation(Phase.UNKNOWN, ObservationCode.UNKNOWN_TO_SCHEDULER, "Lepton does not know the job.")
FORGOTTEN = Observation(
    Phase.UNKNOWN,
    ObservationCode.UNKNOWN_TO_SCHEDULER,
    "Lepton has archived the job without its end state.",
    raw=ARCHIVED,
)

PREEMPTED = Meaning(Phase.ENDED, ObservationCode.PREEMPTED, "Lepton ended the run and requeued the job.")


class WorkspacePoll:
    """One poll of a workspace, with a limited number of queries about single jobs."""

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace
        self._queries_left = MAX_QUERIES
        self._queries_until = time.monotonic() + QUERIES_SECONDS

    def observe(self, handle: Handle, listed: wire.LeptonJob | None, notes: Notes) -> Observation | None:
        """Return the observation of a job, None for no change. listed: the job in the list of live jobs."""
        try:
            job = listed or self._queried(handle)
        except Absent:
            return GONE
        except BackendUnavailable as error:  # about one job: the poll continues with the others
            log.warning("lepton.no_answer", job=handle.external_id, error=error.message)
            return None
        if job is None:
            return None
        if state_of(job) == ARCHIVED:
            return FORGOTTEN
        return self._observation(job, notes)

    def _queried(self, handle: Handle) -> wire.LeptonJob | None:
        return self.workspace.job(handle.external_id) if self._may_query() else None

    def _may_query(self) -> bool:
        self._queries_left -= 1
        return self._queries_left >= 0 and time.monotonic() < self._queries_until

    def _observation(self, job: wire.LeptonJob, notes: Notes) -> Observation | None:
        state = state_of(job)
        meaning = self._meaning(state, job, notes)
        if meaning is None:
            return None
        return Observation(meaning.phase, meaning.code, _with_replicas(job, meaning), raw=state)

    def _meaning(self, state: str, job: wire.LeptonJob, notes: Notes) -> Meaning | None:
        match state:
            case "Running":
                notes.set_once(STARTED)
                self._end_overtime(job, notes)
            case "Completed":
                notes.set_once(COMPLETED)
            case "Failed":
                return _ended_by_service(notes) or self._failed(job, notes)
            case "Stopped" if meaning := _ended_by_service(notes):
                return meaning
            case "Starting" if self._must_read_events(notes):
                return self._starting(job)
            case _ if state in REQUEUED_STATES and notes.age(STARTED):
                return self._requeued(job, notes)
        return STATES.get(state)

    # -- stopping jobs --------------------------------------------------------------------------

    def _requeued(self, job: wire.LeptonJob, notes: Notes) -> Meaning:
        """Stop a requeued job: Lepton would restart it in the same attempt. The service starts a new one."""
        notes.set_once(REQUEUED)
        self._stop(job)  # not ended before Lepton reports it: another attempt must not run at the same time
        return PREEMPTED if (notes.age(REQUEUED) or 0) > STOP_SECONDS else STATES["Stopping"]

    def _end_overtime(self, job: wire.LeptonJob, notes: Notes) -> None:
        limit = notes.time_limit_seconds
        if limit and (notes.age(STARTED) or 0) > limit + OVERTIME_SECONDS:
            notes.set_once(OVERTIME)
            self._stop(job)

    def _stop(self, job: wire.LeptonJob) -> None:
        try:
            self.workspace.stop(job.metadata.id or "")
        except BackendUnavailable as error:  # the next poll tries again
            log.warning("lepton.not_stopped", job=job.metadata.id, error=error.message)

    # -- reasons --------------------------------------------------------------------------------

    def _must_read_events(self, notes: Notes) -> bool:
        if (age := notes.age(EVENTS_READ)) and age < EVENTS_SECONDS:
            return False
        notes.renew(EVENTS_READ)
        return True

    def _starting(self, job: wire.LeptonJob) -> Meaning:
        with suppress(Absent, BackendUnavailable):
            if self._may_query() and (meaning := self._end_reason(job)):
                return meaning._replace(phase=Phase.QUEUED)
        return STATES["Starting"]

    def _failed(self, job: wire.LeptonJob, notes: Notes) -> Meaning | None:
        """Return why the run failed; None while Lepton does not answer, as an end is stored only once."""
        if not self._may_query():
            return None
        try:
            return self._end_reason(job) or STATES["Failed"]
        except Absent:
            return STATES["Failed"]
        except BackendUnavailable as error:
            log.warning("lepton.not_explained", job=job.metadata.id, error=error.message)
        notes.set_once(UNEXPLAINED)
        return STATES["Failed"] if (notes.age(UNEXPLAINED) or 0) > EXPLAIN_SECONDS else None

    def _end_reason(self, job: wire.LeptonJob) -> Meaning | None:
        """Return the meaning of the job's newest event with a known reason."""
        for event in reversed(self.workspace.events(job.metadata.id or "")):
            for prefix, (code, message) in END_REASONS.items():
                if (event.reason or "").startswith(prefix):
                    return Meaning(Phase.ENDED, code, f"{message} (Lepton: {event.reason})")
        return None


def _ended_by_service(notes: Notes) -> Meaning | None:
    """Return why the service stopped the run; None if it did not."""
    if notes.age(OVERTIME):
        return Meaning(
            Phase.ENDED, ObservationCode.TIME_LIMIT, "Reached its time limit and did not end by itself."
        )
    return PREEMPTED if notes.age(REQUEUED) else None


def state_of(job: wire.LeptonJob) -> str:
    """Return Lepton's state; `UNK` if it has none."""
    return (job.status and job.status.state) or "UNK"


def is_over(job: wire.LeptonJob) -> bool:
    """Return whether a job has ended."""
    meaning = STATES.get(state_of(job))
    return state_of(job) == ARCHIVED or (meaning is not None and meaning.phase is Phase.ENDED)


def _with_replicas(job: wire.LeptonJob, meaning: Meaning) -> str:
    replicas = (job.spec and job.spec.completions) or 1
    if replicas == 1 or meaning.phase is Phase.ENDED or job.status is None or job.status.ready is None:
        return meaning.message
    return f"{meaning.message} {job.status.ready} of {replicas} replicas are ready."
