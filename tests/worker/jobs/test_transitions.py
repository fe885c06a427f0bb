"""Jobs change state in one place, once, and leave an event each time."""

from collections.abc import Callable

import pytest

from tests.support.callers import ANNA
from tests.support.concurrency import at_once
from worker.auth.roles import Caller, Role
from worker.db.models import Job
from worker.db.session import writing
from worker.errors import IdempotencyMismatch, IllegalAction, InvalidSpec, NotFound
from worker.jobs import actions, create, queries, transitions
from worker.planning.spec import JobSpec
from worker.states import JobState, Reason

JobIn = Callable[..., Job]


def test_of_many_movers_one_wins_and_one_event_is_written(job_in: JobIn) -> None:
    job = job_in(JobState.SUBMITTING)

    def move() -> bool:
        with writing() as session:
            return transitions.move(session, job.model_copy(), JobState.QUEUED, reason=Reason("x", "y"))

    assert sorted(at_once(8, move)) == [False] * 7 + [True]
    states = [event for event in queries.events(job.id, 0, 100) if event.type == "state"]
    assert [(event.data["from"], event.data["to"], event.actor) for event in states] == [
        ("SUBMITTING", "QUEUED", "system")
    ]


def test_a_move_that_no_path_allows_is_rejected(job_in: JobIn) -> None:
    job = job_in(JobState.QUEUED)
    with pytest.raises(IllegalAction), writing() as session:
        transitions.move(session, job, JobState.SUCCEEDED)
    assert queries.get(job.id).state is JobState.QUEUED


def test_who_saw_an_earlier_attempt_changes_nothing(job_in: JobIn) -> None:
    seen = job_in(JobState.FAILED)
    actions.retry(seen.id, ANNA)
    with writing() as session:
        transitions.move(session, queries.find(session, seen.id), JobState.FAILED)
    with writing() as session:
        assert not transitions.change(session, seen.model_copy(), progress={"step": 99})
    now = queries.get(seen.id)
    assert (now.attempt, now.progress) == (2, {})


def test_every_change_counts_for_the_etag(job_in: JobIn) -> None:
    job = job_in(JobState.SUBMITTING)
    before = job.version
    with writing() as session:
        transitions.move(session, job, JobState.QUEUED)
        transitions.change(session, job, progress={"step": 1})
    assert queries.get(job.id).version == job.version == before + 2


def test_a_retry_begins_afresh_and_keeps_its_history(job_in: JobIn) -> None:
    job = job_in(JobState.LOST, progress={"step": 3}, failure={"class": "unknown"})
    actions.retry(job.id, ANNA)
    now = queries.get(job.id)
    assert (now.state, now.attempt, now.progress, now.failure) == (JobState.VALIDATING, 2, {}, None)
    assert [attempt.number for attempt in queries.attempts(job.id)] == [1, 2]
    assert queries.events(job.id, 0, 100)[-1].actor == "anna"


def test_of_many_retries_at_once_one_makes_an_attempt(job_in: JobIn) -> None:
    job = job_in(JobState.FAILED)
    answers = at_once(8, lambda: actions.retry(job.id, ANNA))
    assert sum(isinstance(answer, Job) for answer in answers) == 1
    assert sum(isinstance(answer, IllegalAction) for answer in answers) == 7
    assert [attempt.number for attempt in queries.attempts(job.id)] == [1, 2]


def test_of_many_cancels_at_once_one_is_written(job_in: JobIn) -> None:
    job = job_in(JobState.RUNNING)
    answers = at_once(8, lambda: actions.cancel(job.id, ANNA))
    assert {answer.state for answer in answers} == {JobState.CANCELLING}
    assert [e.data["to"] for e in queries.events(job.id, 0, 100) if e.type == "state"] == ["CANCELLING"]


def test_many_equal_keys_at_once_make_one_job(spec: JobSpec) -> None:
    answers = at_once(8, lambda: create.create(spec, ANNA, "key"))
    assert len({answer.job_id for answer in answers}) == 1
    assert [answer.is_new for answer in answers].count(True) == 1
    assert all(answer.response["id"] == answer.job_id for answer in answers)


def test_a_key_belongs_to_its_owner_and_to_one_body(spec: JobSpec) -> None:
    first = create.create(spec, ANNA, "key")
    bert = Caller(name="bert", project="default", role=Role.SUBMITTER)
    assert create.create(spec, bert, "key").job_id != first.job_id
    with pytest.raises(IdempotencyMismatch):
        create.create(spec.model_copy(update={"name": "other"}), ANNA, "key")


def test_a_rejected_job_consumes_no_key(spec: JobSpec) -> None:
    bad = spec.model_copy(update={"config": "none-such"})
    with pytest.raises(InvalidSpec):
        create.create(bad, ANNA, "key")
    assert create.create(spec, ANNA, "key").is_new


def test_what_is_not_there_is_not_found(database: str) -> None:
    for call in (queries.get, queries.attempts, lambda job_id: actions.cancel(job_id, ANNA)):
        with pytest.raises(NotFound):
            call("job-none")
