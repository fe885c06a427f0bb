"""Limits of projects where jobs are submitted: on each kind of database, with many workers at once."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.callers import ANNA
from tests.support.concurrency import at_once
from tests.support.process import Redis, forget_settings
from tests.support.service import kill_runs
from tests.support.stand_in.control import override
from worker import tasks
from worker.auth.roles import Caller, Role
from worker.broker import messages
from worker.broker.task_names import NEXT, SUBMISSIONS, TaskName
from worker.clock import utcnow
from worker.db.models import Job
from worker.db.session import writing
from worker.errors import InvalidSpec, TooManyWaitingJobs
from worker.jobs import actions, create, queries, transitions
from worker.lifecycle import admission, recovery, stop_requests
from worker.lifecycle import submit as submission
from worker.limits import projects
from worker.limits.projects import BEYOND_PROJECT_LIMIT, ProjectLimits
from worker.planning.plan import plan
from worker.planning.spec import JobSpec, RequestedResources
from worker.states import JobState, Reason

TEAM = Caller("anna", "team", Role.OPERATOR)
RIVALS = Caller("bert", "rivals", Role.OPERATOR)

Make = Callable[..., Job]

pytestmark = pytest.mark.usefixtures("redis")


@pytest.fixture
def make(spec: JobSpec, data_dir: Path) -> Iterator[Make]:
    """Return a function that creates a job of a caller, with runs that last."""

    def made(caller: Caller = TEAM, gpus: int = 1) -> Job:
        resources = RequestedResources(gpus_per_node=gpus)
        changes = {"overrides": [*spec.overrides, override("hold")], "resources": resources}
        return queries.get(create.create(spec.model_copy(update=changes), caller).job_id)

    yield made
    kill_runs(data_dir)


def state_of(job: Job) -> tuple[str, str | None]:
    now = queries.get(job.id)
    return now.state.value, now.reason_code if now.state is JobState.SUBMITTING else None


def message_of(job: Job) -> str:
    return queries.get(job.id).reason_message or ""


WAITS = ("SUBMITTING", "project_limit")
ON_THE_CLUSTER = ("QUEUED", None)


def end(job: Job) -> None:
    """End a job on its cluster, as the poll and the end of its run do."""
    with writing() as session:
        now = queries.find(session, job.id)
        transitions.move(session, now, JobState.FINALIZING)
        transitions.move(session, now, JobState.SUCCEEDED)
    admission.release(job.project)


def tickets() -> set[str]:
    """Ids of the jobs whose submission is enqueued."""
    return {ids[0] for task, *ids in messages.waiting(SUBMISSIONS, NEXT) if task == TaskName.SUBMIT}


def test_of_many_workers_at_once_none_exceeds_the_limit(make: Make) -> None:
    projects.set_own("team", ProjectLimits(live_jobs=2), ANNA)
    jobs = [make() for _ in range(6)]
    submit = [lambda job=job: submission.submit(job.id) for job in jobs]
    at_once(6, lambda: submit.pop()())
    assert sorted(map(state_of, jobs)) == [ON_THE_CLUSTER] * 2 + [WAITS] * 4
    assert projects.usage("team") == projects.Used(live_jobs=2, waiting_jobs=4, gpus=2)


def test_a_job_that_has_no_room_says_so_and_is_released_by_the_end_of_another(
    make: Make, redis: Redis
) -> None:
    projects.set_own("team", ProjectLimits(live_jobs=1), ANNA)
    first, second, third = make(), make(), make()
    for job in (first, second, third):
        submission.submit(job.id)
    assert [state_of(job) for job in (first, second, third)] == [ON_THE_CLUSTER, WAITS, WAITS]
    assert queries.get(second.id).reason_message == "The limit of the project's live jobs is 1."
    redis.flushdb()
    end(first)
    assert tickets() == {second.id}  # the oldest, and no more than have room
    tasks.submit(third.id)  # whichever ticket is taken
    assert [state_of(job) for job in (second, third)] == [ON_THE_CLUSTER, WAITS]


def test_gpus_are_counted_together(make: Make) -> None:
    projects.set_own("team", ProjectLimits(gpus=4), ANNA)
    jobs = [make(gpus=gpus) for gpus in (2, 1, 2)]
    for job in jobs:
        submission.submit(job.id)
    assert [state_of(job) for job in jobs] == [ON_THE_CLUSTER, ON_THE_CLUSTER, WAITS]
    assert "GPUs is 4; this job needs 2" in message_of(jobs[2])
    end(jobs[1])
    tasks.submit(jobs[2].id)
    assert state_of(jobs[2]) == ON_THE_CLUSTER


def test_small_jobs_do_not_overtake_a_large_one_that_waits(make: Make, redis: Redis) -> None:
    projects.set_own("team", ProjectLimits(gpus=5), ANNA)
    jobs = [make(gpus=gpus) for gpus in (4, 2, 1, 1)]
    for job in [*jobs, others := make(RIVALS)]:
        submission.submit(job.id)
    assert [state_of(job) for job in jobs] == [ON_THE_CLUSTER, WAITS, WAITS, WAITS]
    assert "older job of the project" in message_of(jobs[2])
    assert state_of(others) == ON_THE_CLUSTER
    redis.flushdb()
    tasks.sweep()
    assert tickets() == set()  # the smaller ones would fit
    end(jobs[0])
    assert tickets() == {job.id for job in jobs[1:]}
    for job in jobs[1:]:
        tasks.submit(job.id)
    assert [state_of(job) for job in jobs[1:]] == [ON_THE_CLUSTER] * 3


def test_a_job_that_can_never_start_says_so_and_holds_up_nobody(make: Make, redis: Redis) -> None:
    projects.set_own("team", ProjectLimits(gpus=4), ANNA)
    jobs = [make(gpus=gpus) for gpus in (4, 4, 2)]
    for job in jobs:
        submission.submit(job.id)
    projects.set_own("team", ProjectLimits(gpus=2), ANNA)
    redis.flushdb()
    tasks.sweep()
    message = message_of(jobs[1])
    assert "can never start" in message
    assert "needs 4 GPUs" in message
    assert "limit of the project is 2" in message
    assert "Cancel it" in message
    end(jobs[0])
    assert tickets() == {jobs[2].id}
    tasks.submit(jobs[2].id)
    assert [state_of(job) for job in jobs[1:]] == [WAITS, ON_THE_CLUSTER]
    projects.set_own("team", ProjectLimits(gpus=6), ANNA)
    tasks.sweep()
    assert jobs[1].id in tickets()  # a limit that is raised again lets it start


@pytest.mark.parametrize(("gpus", "field"), [(3, "gpus_per_node"), (2, "nodes")])
def test_a_job_beyond_the_limit_of_its_project_is_rejected(spec: JobSpec, gpus: int, field: str) -> None:
    projects.set_own("team", ProjectLimits(gpus=2), ANNA)
    resources = RequestedResources(nodes=2 if field == "nodes" else 1, gpus_per_node=gpus)
    wanted = spec.model_copy(update={"resources": resources})
    [finding] = [one for one in plan(wanted, TEAM.tenant).checks if one.code == BEYOND_PROJECT_LIMIT]
    assert (finding.severity, finding.pointer) == ("error", f"/resources/{field}")
    assert "limit of 2" in finding.message
    with pytest.raises(InvalidSpec) as rejected:
        create.create(wanted, TEAM)
    assert f"/resources/{field}" in {error.pointer for error in rejected.value.errors}
    assert not [one for one in plan(wanted, RIVALS.tenant).checks if one.code == BEYOND_PROJECT_LIMIT]


@pytest.mark.parametrize(
    ("state", "action"), [(JobState.FAILED, actions.retry), (JobState.PAUSED, actions.resume)]
)
def test_no_further_attempt_of_a_job_beyond_the_limit(
    job_in: Make, state: JobState, action: Callable[[str, Caller], Job]
) -> None:
    job = job_in(state, project="team")
    projects.set_own("team", ProjectLimits(gpus=0), ANNA)
    with pytest.raises(InvalidSpec) as rejected:
        action(job.id, TEAM)
    [error] = rejected.value.errors
    assert (error.pointer, error.code) == ("/job/spec/resources/gpus_per_node", BEYOND_PROJECT_LIMIT)
    assert queries.get(job.id).state is state


def test_a_submission_that_is_repeated_is_not_counted_twice(make: Make) -> None:
    projects.set_own("team", ProjectLimits(live_jobs=1), ANNA)
    job = make()
    with writing() as session:
        transitions.move(session, queries.find(session, job.id), JobState.SUBMITTING)
    assert admission.admit(queries.get(job.id), "/somewhere")  # and the worker dies
    submission.submit(job.id)
    assert state_of(job) == ON_THE_CLUSTER


def test_a_job_that_waits_is_cancelled_at_once(make: Make) -> None:
    projects.set_own("team", ProjectLimits(live_jobs=0), ANNA)
    job = make()
    submission.submit(job.id)
    assert state_of(job) == WAITS
    actions.cancel(job.id, TEAM)
    stop_requests.cancel(job.id)
    assert queries.get(job.id).state is JobState.CANCELLED
    assert projects.usage("team").waiting_jobs == 0


def test_waiting_for_room_is_not_being_stuck(make: Make, redis: Redis) -> None:
    projects.set_own("team", ProjectLimits(live_jobs=0), ANNA)
    jobs = [make() for _ in range(3)]
    for job in jobs:
        submission.submit(job.id)
    with writing() as session:
        for job in jobs:
            queries.find(session, job.id).updated_at = utcnow().replace(year=2020)
    redis.flushdb()
    tasks.sweep()
    assert tickets() == set()
    projects.set_own("team", ProjectLimits(live_jobs=2), ANNA)
    assert (TaskName.SWEEP,) in messages.waiting("sft.looks", 0)  # a limit that was raised helps at once
    tasks.sweep()
    assert tickets() == {jobs[0].id, jobs[1].id}


def test_a_recovered_job_waits_for_room_like_any_other(make: Make) -> None:
    projects.set_own("team", ProjectLimits(live_jobs=1), ANNA)
    first, second = make(), make()
    submission.submit(first.id)
    submission.submit(second.id)
    recovery.recover(queries.get(first.id), Reason("preempted", "The cluster needed the node."))
    assert projects.usage("team") == projects.Used(live_jobs=0, waiting_jobs=2, gpus=0)
    tasks.submit(second.id)
    assert [state_of(first), state_of(second)] == [ON_THE_CLUSTER, ("SUBMITTING", None)]
    tasks.submit(second.id)
    assert state_of(second) == WAITS
    assert not queries.is_stale(queries.get(second.id))


def test_of_many_requests_at_once_no_more_than_may_wait_are_accepted(
    make: Make, environment: pytest.MonkeyPatch
) -> None:
    environment.setenv("SFT_PROJECT_WAITING_JOBS", "3")
    forget_settings()
    answers = at_once(8, make)
    assert sum(isinstance(one, TooManyWaitingJobs) for one in answers) == 5
    assert projects.usage("team").waiting_jobs == 3
    make(RIVALS)


def test_what_waits_has_no_reason_to_be_polled_or_ingested(make: Make, data_dir: Path) -> None:
    projects.set_own("team", ProjectLimits(live_jobs=0), ANNA)
    job = make()
    submission.submit(job.id)
    assert not (data_dir / "jobs").exists()
    assert queries.attempt_of(job).directory is None


# -- turns -----------------------------------------------------------------------------------------


def test_projects_take_turns_whatever_the_order_of_the_messages(make: Make) -> None:
    many = [make() for _ in range(6)]
    few = [make(RIVALS) for _ in range(2)]
    order: list[str] = []
    for ticket in [*many, *few]:
        before = {job.id for job in [*many, *few] if state_of(job) == ON_THE_CLUSTER}
        tasks.submit(ticket.id)
        order += {job.id for job in [*many, *few] if state_of(job) == ON_THE_CLUSTER} - before
    assert {*order[:2]} == {many[0].id, few[0].id}
    assert {*order[2:4]} == {many[1].id, few[1].id}
    assert order[4:] == [job.id for job in many[2:]]


def test_each_ticket_submits_one_job_however_many_workers_take_them(make: Make) -> None:
    jobs = [make(caller) for caller in (TEAM, TEAM, TEAM, RIVALS)]
    pending = [job.id for job in jobs]
    at_once(4, lambda: tasks.submit(pending.pop()))
    assert list(map(state_of, jobs)) == [ON_THE_CLUSTER] * 4
    for job in jobs:
        submitted = [event for event in queries.events(job.id, 0, 100) if event.type == "submitted"]
        assert len(submitted) == 1


def test_a_job_that_fails_with_an_error_does_not_hold_up_the_others(
    make: Make, environment: pytest.MonkeyPatch
) -> None:
    jobs = [make() for _ in range(3)]
    original = submission.submit

    def submit(job_id: str) -> None:
        if job_id == jobs[0].id:
            raise RuntimeError("a bug")
        original(job_id)

    environment.setattr(submission, "submit", submit)
    for job in jobs:
        tasks.submit.apply((job.id,))
    assert list(map(state_of, jobs)) == [("VALIDATING", None), ON_THE_CLUSTER, ON_THE_CLUSTER]
