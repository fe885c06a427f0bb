"""Count jobs: by cluster and state, and the oldest of each."""

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import and_, not_
from sqlalchemy import select as select_columns
from sqlmodel import col, func, select

from worker.db.models import Attempt, Job
from worker.db.session import reading
from worker.limits import projects
from worker.states import LIVE, JobState


@dataclass(frozen=True)
class Oldest:
    """Since when the live jobs of a cluster are in a state: the earliest moments among them."""

    cluster: str
    state: JobState
    waiting_since: datetime
    """Since the cluster has it or, before that, since the attempt was asked for."""
    observed_at: datetime


def oldest_live_jobs() -> list[Oldest]:
    """One entry for each cluster and state that has live jobs; not those that wait for their project."""
    asked_for = col(Attempt.created_at)
    waiting_since = func.min(func.coalesce(col(Attempt.submitted_at), asked_for))
    # What was never observed is as old as its submission.
    observed_at = func.min(func.coalesce(col(Job.observed_at), col(Attempt.submitted_at), asked_for))
    query = (
        select_columns(col(Job.cluster), col(Job.state), waiting_since, observed_at)
        .join(Attempt, and_(col(Attempt.job_id) == col(Job.id), col(Attempt.number) == col(Job.attempt)))
        .where(col(Job.state).in_(LIVE), not_(projects.is_waiting_for_room()))
        .group_by(Job.cluster, col(Job.state))
    )
    with reading() as session:
        return [Oldest(*row) for row in session.execute(query)]


def count_jobs() -> dict[tuple[str, JobState], int]:
    """Number of jobs by cluster and state, ended ones included."""
    query = select(Job.cluster, Job.state, func.count()).group_by(Job.cluster, col(Job.state))
    with reading() as session:
        return {(cluster, JobState(state)): number for cluster, state, number in session.exec(query)}


def live_jobs_by_cluster() -> dict[str, dict[str, int]]:
    """Number of live jobs by cluster and state."""
    query = (
        select(Job.cluster, Job.state, func.count())
        .where(col(Job.state).in_(LIVE))
        .group_by(Job.cluster, col(Job.state))
    )
    counts: dict[str, dict[str, int]] = {}
    with reading() as session:
        for cluster, state, number in session.exec(query):
            counts.setdefault(cluster, {})[JobState(state).value] = number
    return counts
