"""What one look at a workspace says of its jobs."""

import time
from contextlib import suppress

from worker.backends.interface import Handle
from worker.backends.lepton import wire
from worker.backends.lepton.client import Absent, Workspace
from worker.backends.lepton.notes import ASKED, BEGAN, COMPLETED, OVERTIME, PUT_BACK, UNEXPLAINED, Notes
from worker.backends.lepton.states import ARCHIVED, ENDS, STATES, WAITING_AGAIN, Meaning
from worker.errors import BackendUnavailable
from worker.runs.observation import Observation, ObservationCode, Phase
from worker.telemetry.logging import logger

log = logger(__name__)

# A run ends itself at its time limit; this is for one that hangs.
OVERTIME_SECONDS = 180.0
# Questions about single jobs in one look, and for how long they are asked: the next one asks about others.
MOST_QUESTIONS = 20
QUESTIONS_SECONDS = 20.0
# Why a job does not start is asked no more often.
ASK_SECONDS = 60.0
# For so long what has happened to a failed job is asked again where there was no answer.
EXPLAIN_SECONDS = 300.0
# A job that was stopped while it waited is over then, whatever it is said to be.
STOP_SECONDS = 120.0

GONE = Observation(Phase.UNKNOWN, ObservationCode.UNKNOWN_TO_SCHEDULER, "Lepton does not know the job.")
FORGOTTEN = Observation(
    Phase.UNKNOWN,
    ObservationCode.UNKNOWN_TO_SCHEDULER,
    "Lepton has archived the job, and not how it ended.",
    raw=ARCHIVED,
)

PREEMPTED = Meaning(
    Phase.ENDED, ObservationCode.PREEMPTED, "Lepton ended the run, and put the job back into its queue."
)


class Watch:
    """One look. Where nothing is to be said of a job, that is no news."""

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace
        self._questions = MOST_QUESTIONS
        self._asks_until = time.monotonic() + QUESTIONS_SECONDS

    def observe(self, handle: Handle, listed: wire.Job | None, notes: Notes) -> Observation | None:
        """What is so about a job. listed: what the list of all that are alive has of it."""
        try:
            job = listed or self._asked(handle)
        except Absent:
            return GONE
        except BackendUnavailable as error:  # of one job: the others go their way
            log.warning("lepton.no_answer", job=handle.external_id, error=error.message)
            return None
        if job is None:
            return None
        if state_of(job) == ARCHIVED:
            return FORGOTTEN
        return self._of(job, notes)

    def _asked(self, handle: Handle) -> wire.Job | None:
        return self.workspace.job(handle.external_id) if self._may_ask() else None

    def _may_ask(self) -> bool:
        self._questions -= 1
        return self._questions >= 0 and time.monotonic() < self._asks_until

    def _of(self, job: wire.Job, notes: Notes) -> Observation | None:
        state = state_of(job)
        meaning = self._meaning(state, job, notes)
        if meaning is None:
            return None
        return Observation(meaning.phase, meaning.code, _with_replicas(job, meaning), raw=state)

    def _meaning(self, state: str, job: wire.Job, notes: Notes) -> Meaning | None:
        match state:
            case "Running":
                notes.note(BEGAN)
                self._end_overtime(job, notes)
            case "Completed":
                notes.note(COMPLETED)
            case "Failed":
                return _by_us(notes) or self._failed(job, notes)
            case "Stopped" if meaning := _by_us(notes):
                return meaning
            case "Starting" if self._is_time_to_ask(notes):
                return self._starting(job)
            case _ if state in WAITING_AGAIN and notes.age(BEGAN):
                return self._put_back(job, notes)
        return STATES.get(state)

    # -- what is done about it ------------------------------------------------------------------

    def _put_back(self, job: wire.Job, notes: Notes) -> Meaning:
        """Lepton would begin the run again, and its outcome could not be told from this one's: we do that."""
        notes.note(PUT_BACK)
        self._stop(job)  # it is over when Lepton says so: until then another attempt would run beside it
        return PREEMPTED if (notes.age(PUT_BACK) or 0) > STOP_SECONDS else STATES["Stopping"]

    def _end_overtime(self, job: wire.Job, notes: Notes) -> None:
        limit = notes.limit_seconds
        if limit and (notes.age(BEGAN) or 0) > limit + OVERTIME_SECONDS:
            notes.note(OVERTIME)
            self._stop(job)

    def _stop(self, job: wire.Job) -> None:
        try:
            self.workspace.stop(job.metadata.id or "")
        except BackendUnavailable as error:
            log.warning("lepton.not_stopped", job=job.metadata.id, error=error.message)  # the next look does

    # -- why ------------------------------------------------------------------------------------

    def _is_time_to_ask(self, notes: Notes) -> bool:
        if (age := notes.age(ASKED)) and age < ASK_SECONDS:
            return False
        notes.renew(ASKED)
        return True

    def _starting(self, job: wire.Job) -> Meaning:
        with suppress(Absent, BackendUnavailable):
            if self._may_ask() and (meaning := self._explained(job)):
                return meaning._replace(phase=Phase.QUEUED)
        return STATES["Starting"]

    def _failed(self, job: wire.Job, notes: Notes) -> Meaning | None:
        """How a run has ended is written down once: while nobody answers why, that is no news."""
        if not self._may_ask():
            return None
        try:
            return self._explained(job) or STATES["Failed"]
        except Absent:
            return STATES["Failed"]
        except BackendUnavailable as error:
            log.warning("lepton.not_explained", job=job.metadata.id, error=error.message)
        notes.note(UNEXPLAINED)
        return STATES["Failed"] if (notes.age(UNEXPLAINED) or 0) > EXPLAIN_SECONDS else None

    def _explained(self, job: wire.Job) -> Meaning | None:
        """What the job's events say, where they say something that is known."""
        for event in reversed(self.workspace.events(job.metadata.id or "")):
            for word, (code, message) in ENDS.items():
                if (event.reason or "").startswith(word):
                    return Meaning(Phase.ENDED, code, f"{message} (Lepton: {event.reason})")
        return None


def _by_us(notes: Notes) -> Meaning | None:
    """Why a run that was stopped by the service was."""
    if notes.age(OVERTIME):
        return Meaning(
            Phase.ENDED, ObservationCode.TIME_LIMIT, "Reached its time limit, and did not end by itself."
        )
    return PREEMPTED if notes.age(PUT_BACK) else None


def state_of(job: wire.Job) -> str:
    """Lepton's word; `UNK` where it has none."""
    return (job.status and job.status.state) or "UNK"


def is_over(job: wire.Job) -> bool:
    """Whether a job has ended, or is about to."""
    meaning = STATES.get(state_of(job))
    return state_of(job) == ARCHIVED or (meaning is not None and meaning.phase is Phase.ENDED)


def _with_replicas(job: wire.Job, meaning: Meaning) -> str:
    of = (job.spec and job.spec.completions) or 1
    if of == 1 or meaning.phase is Phase.ENDED or job.status is None or job.status.ready is None:
        return meaning.message
    return f"{meaning.message} {job.status.ready} of {of} replicas are ready."
