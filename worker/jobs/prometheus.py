"""Metrics of jobs, read from the database at each scrape."""

from collections.abc import Iterable, Iterator
from datetime import datetime

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from worker.clock import utcnow
from worker.clusters.registry import clusters
from worker.errors import ServiceUnavailable
from worker.jobs import statistics
from worker.jobs.statistics import Oldest
from worker.states import JobState

WAITING = (JobState.VALIDATING, JobState.SUBMITTING, JobState.QUEUED)
RUNNING = (JobState.STARTING, JobState.RUNNING)


class JobCollector(Collector):
    """Two grouped queries a scrape. Where the database does not answer, only sft_database_up is reported."""

    def collect(self) -> Iterator[GaugeMetricFamily]:
        up = GaugeMetricFamily("sft_database_up", "Whether the database answers.", value=1)
        try:
            families = [_jobs(statistics.count_jobs()), *_ages(statistics.oldest_live_jobs())]
        except ServiceUnavailable:
            up = GaugeMetricFamily(up.name, up.documentation, value=0)
            families = []
        yield up
        yield from families


def _jobs(counts: dict[tuple[str, JobState], int]) -> GaugeMetricFamily:
    family = GaugeMetricFamily("sft_jobs", "Jobs by cluster and state.", labels=("cluster", "state"))
    for cluster in {*clusters(), *(name for name, _ in counts)}:
        for state in JobState:
            family.add_metric((cluster, state.value), counts.get((cluster, state), 0))
    return family


def _ages(oldest: list[Oldest]) -> Iterable[GaugeMetricFamily]:
    waiting = GaugeMetricFamily(
        "sft_oldest_waiting_job_seconds",
        "Waiting time of the job that has waited longest.",
        labels=("cluster", "state"),
    )
    unobserved = GaugeMetricFamily(
        "sft_observation_age_seconds",
        "Age of the oldest observation of a running job.",
        labels=("cluster", "state"),
    )
    now = utcnow()
    for one in oldest:
        if one.state in WAITING:
            waiting.add_metric((one.cluster, one.state.value), _age(one.waiting_since, now))
        elif one.state in RUNNING:
            unobserved.add_metric((one.cluster, one.state.value), _age(one.observed_at, now))
    return waiting, unobserved


def _age(moment: datetime, now: datetime) -> float:
    return max((now - moment).total_seconds(), 0.0)
