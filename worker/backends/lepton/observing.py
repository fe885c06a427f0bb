"""What one look at a workspace says of its jobs."""

from worker.backends.base import Handle, Observation, Phase
from worker.backends.lepton import wire
from worker.backends.lepton.client import Absent, Workspace
from worker.backends.lepton.notes import ASKED, BEGAN, OVERTIME, Notes
from worker.backends.lepton.rendering import LIMIT_LABEL
from worker.backends.lepton.states import ARCHIVED, ENDS, STATES, WAITING_AGAIN, Meaning
from worker.errors import BackendUnavailable
from worker.log import logger

log = logger(__name__)

# A run ends itself at its time limit; this is for one that hangs.
OVERTIME_SECONDS = 180.0
# Questions about single jobs in one look: the next one asks about others.
MOST_QUESTIONS = 20
# Why a job does not start is asked no more often.
ASK_SECONDS = 60.0

GONE = Observation(Phase.UNKNOWN, "unknown_to_scheduler", "Lepton does not know the job.")
FORGOTTEN = Observation(
    Phase.UNKNOWN, "unknown_to_scheduler", "Lepton has archived the job, and not how it ended.", raw=ARCHIVED
)


class Watch:
    """One look. Where nothing is to be said of a job, that is no news."""

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace
        self._questions = MOST_QUESTIONS

    def observe(self, handle: Handle, listed: wire.Job | None, notes: Notes) -> Observation | None:
        """What is so about a job. listed: what the list of all that are alive has of it."""
        try:
            job = listed or self._asked(handle)
        except Absent:
            return GONE
        if job is None:
            return None
        if state_of(job) == ARCHIVED:
            return FORGOTTEN
        return self._of(job, notes)

    def _asked(self, handle: Handle) -> wire.Job | None:
        return self.workspace.job(handle.external_id) if self._may_ask() else None

    def _may_ask(self) -> bool:
        self._questions -= 1
        return self._questions >= 0

    def _of(self, job: wire.Job, notes: Notes) -> Observation | None:
        state = state_of(job)
        meaning = STATES.get(state)
        if meaning is None:
            return None
        if state in WAITING_AGAIN and notes.age(BEGAN):
            return self._interrupted(job)
        if state == "Running":
            notes.note(BEGAN)
            self._end_overtime(job, notes)
        if state == "Stopped" and notes.age(OVERTIME):
            meaning = Meaning(Phase.ENDED, "time_limit", "Reached its time limit, and did not end by itself.")
        if state == "Failed" or (state == "Starting" and self._is_time_to_ask(notes)):
            meaning = self._explained(job, meaning)
        return Observation(meaning.phase, meaning.code, _with_replicas(job, meaning), raw=state)

    # -- what is done about it ------------------------------------------------------------------

    def _interrupted(self, job: wire.Job) -> Observation | None:
        """Lepton would begin the run again, and its outcome could not be told from this one's: we do that."""
        message = "Lepton ended the run, and put the job back into its queue."
        return Observation(Phase.ENDED, "preempted", message, raw=state_of(job)) if self._stop(job) else None

    def _end_overtime(self, job: wire.Job, notes: Notes) -> None:
        limit = (job.metadata.labels or {}).get(LIMIT_LABEL, "")
        if limit.isdigit() and (notes.age(BEGAN) or 0) > int(limit) + OVERTIME_SECONDS:
            notes.note(OVERTIME)
            self._stop(job)

    def _stop(self, job: wire.Job) -> bool:
        try:
            self.workspace.stop(job.metadata.id or "")
        except BackendUnavailable as error:
            log.warning("lepton.not_stopped", job=job.metadata.id, error=error.message)  # the next look does
            return False
        return True

    # -- why ------------------------------------------------------------------------------------

    def _is_time_to_ask(self, notes: Notes) -> bool:
        if (age := notes.age(ASKED)) and age < ASK_SECONDS:
            return False
        notes.renew(ASKED)
        return True

    def _explained(self, job: wire.Job, meaning: Meaning) -> Meaning:
        """With what the job's events say, where they say something that is known."""
        try:
            events = self.workspace.events(job.metadata.id or "") if self._may_ask() else []
        except (Absent, BackendUnavailable):
            return meaning
        for event in reversed(events):
            for word, (code, message) in ENDS.items():
                if (event.reason or "").startswith(word):
                    return meaning._replace(code=code, message=f"{message} (Lepton: {event.reason})")
        return meaning


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
