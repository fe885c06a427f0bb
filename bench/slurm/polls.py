"""Measure one poll of all jobs of a cluster: time, processor time, controller RPCs, database writes."""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from resource import RUSAGE_CHILDREN, RUSAGE_SELF, getrusage
from time import perf_counter
from typing import Any

from sqlalchemy import event

from bench.slurm.pending_jobs import PendingJobs
from bench.slurm.results import Progress, Result, median_milliseconds
from bench.slurm.testbed import FAR, NEAR, Testbed, backend
from demo.slurm.cluster import DemoSlurm
from worker.backends.slurm.command_output import QUEUE
from worker.db.session import engine
from worker.lifecycle import reconcile

POLLS = 5
QUEUE_SECONDS = 60.0
# Only RPCs of clients count: these are messages between the daemons, and of our own sdiag.
IGNORED_RPCS = re.compile(r"MESSAGE_|ACCOUNTING_|REQUEST_STATS_INFO|REQUEST_PING")


@dataclass(frozen=True)
class PollCost:
    """The cost of one poll."""

    seconds: float
    own_cpu: float
    """Processor seconds of this process."""
    children_cpu: float
    """Processor seconds of the commands that it ran on this machine."""
    rpcs: Counter[str]
    writes: list[str]
    """Statements that change the database."""


def measure(testbed: Testbed, pending: PendingJobs, progress: Progress) -> list[Result]:
    """Measure polls of pending jobs, near and far, after a first poll that writes all changes.

    For comparison: the squeue of a poll alone, by the same transport. Far, the work of sshd and squeue is
    not in the processor times: on a cluster another machine does it. On this Slurm the service is root,
    whose squeue requests the jobs of all users; for other users REQUEST_JOB_INFO is REQUEST_JOB_USER_INFO,
    and there is one more RPC, REQUEST_FED_INFO. An occasional write is observed_at of all jobs at once:
    every SFT_STALE_AFTER_SECONDS / 3.
    """
    return [row for profile in (NEAR, FAR) for row in _of_profile(testbed, pending, profile, progress)]


def _of_profile(testbed: Testbed, pending: PendingJobs, profile: str, progress: Progress) -> list[Result]:
    pending.move_to(profile)
    name = f"{profile}, {len(pending):,} jobs"
    reconcile.poll_cluster(profile)
    polls, alone = [], []
    for number in range(POLLS):
        progress(f"{name}: poll {number + 1} of {POLLS}")
        polls.append(measure_poll(testbed.slurm, profile))
        alone.append(_squeue(profile))
    rows = [
        median_milliseconds("squeue alone", alone),
        median_milliseconds("one poll", [one.seconds for one in polls], alone),
        median_milliseconds("processor, the service", [one.own_cpu for one in polls]),
        median_milliseconds("processor, its commands", [one.children_cpu for one in polls]),
        *rpcs_of(polls),
        Result("database writes", span([len(one.writes) for one in polls]), "per poll"),
    ]
    return [row.of(name) for row in rows]


def _squeue(profile: str) -> float:
    started = perf_counter()
    backend(profile).transport.run(QUEUE, timeout=QUEUE_SECONDS)
    return perf_counter() - started


def rpcs_of(polls: list[PollCost]) -> Iterator[Result]:
    """Yield a row for each kind of RPC: minimum and maximum per poll."""
    for kind in sorted({kind for one in polls for kind in one.rpcs}):
        counts = [one.rpcs[kind] for one in polls]
        yield Result(kind.removeprefix("REQUEST_"), span(counts), "RPCs per poll")


def span(counts: Sequence[int]) -> str:
    """Return minimum and maximum, or one number if they are equal."""
    return f"{min(counts)}" if min(counts) == max(counts) else f"{min(counts)}-{max(counts)}"


def measure_poll(slurm: DemoSlurm, profile: str) -> PollCost:
    """Measure one poll as a worker does it. Raises BackendUnavailable."""
    before, started, (own, children) = rpcs(slurm), perf_counter(), _cpu()
    with _recorded_writes() as writes:
        reconcile.poll_cluster(profile)
    seconds, (own_after, children_after) = perf_counter() - started, _cpu()
    return PollCost(seconds, own_after - own, children_after - children, rpcs(slurm) - before, writes)


def _cpu() -> tuple[float, float]:
    used = (getrusage(RUSAGE_SELF), getrusage(RUSAGE_CHILDREN))
    own, children = (one.ru_utime + one.ru_stime for one in used)
    return own, children


def rpcs(slurm: DemoSlurm) -> Counter[str]:
    """Return the number of client RPCs since slurmctld's start, by message type: sdiag(1)."""
    output = slurm.run("sdiag").stdout
    by_type = output.partition("by message type")[2].partition("by user")[0]
    counts = re.findall(r"^\s*(\w+)\s*\(\s*\d+\)\s*count:(\d+)", by_type, re.MULTILINE)
    return Counter({kind: int(count) for kind, count in counts if not IGNORED_RPCS.match(kind)})


@contextmanager
def _recorded_writes() -> Iterator[list[str]]:
    statements: list[str] = []

    def record(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if statement.lstrip().startswith(("INSERT", "UPDATE", "DELETE")):
            statements.append(statement)

    event.listen(engine(), "before_cursor_execute", record)
    try:
        yield statements
    finally:
        event.remove(engine(), "before_cursor_execute", record)
