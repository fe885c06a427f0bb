"""One look at all jobs of a cluster: its time, and what it asks of processor, controller and database."""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from resource import RUSAGE_CHILDREN, RUSAGE_SELF, getrusage
from time import perf_counter
from typing import Any

from sqlalchemy import event

from bench.slurm.figures import Figure, Progress, milliseconds
from bench.slurm.place import FAR, NEAR, Place, backend
from bench.slurm.waiting import Waiting
from demo.slurm.cluster import Cluster
from worker.backends.slurm.command_output import QUEUE
from worker.db.session import engine
from worker.lifecycle import reconcile

LOOKS = 5
QUEUE_SECONDS = 60.0
# What counts here is what clients ask: the daemons report to each other, and sdiag is ours.
NOT_ASKED = re.compile(r"MESSAGE_|ACCOUNTING_|REQUEST_STATS_INFO|REQUEST_PING")


@dataclass(frozen=True)
class Look:
    """One look."""

    seconds: float
    own_cpu: float
    """Seconds of this process."""
    children_cpu: float
    """Seconds of the commands that it ran on this machine."""
    rpcs: Counter[str]
    writes: list[str]
    """Statements that change the database."""


def measure(place: Place, waiting: Waiting, progress: Progress) -> list[Figure]:
    """Looks at jobs that wait, once the first look has nothing left to write, near and far.

    Beside it the squeue of a look alone, by the same transport. Far, what sshd and squeue do is in no
    processor time: on a cluster another machine does that. This Slurm knows the service as root,
    whose squeue asks for the jobs of all users; for others REQUEST_JOB_INFO is REQUEST_JOB_USER_INFO,
    and there is one more RPC, REQUEST_FED_INFO. What is written now and then is observed_at, of all jobs
    at once: each SFT_STALE_AFTER_SECONDS / 3.
    """
    return [row for profile in (NEAR, FAR) for row in _of_profile(place, waiting, profile, progress)]


def _of_profile(place: Place, waiting: Waiting, profile: str, progress: Progress) -> list[Figure]:
    waiting.move_to(profile)
    name = f"{profile}, {len(waiting):,} jobs"
    reconcile.poll_cluster(profile)
    looks, alone = [], []
    for number in range(LOOKS):
        progress(f"{name}: look {number + 1} of {LOOKS}")
        looks.append(look(place.slurm, profile))
        alone.append(_squeue(profile))
    rows = [
        milliseconds("squeue alone", alone),
        milliseconds("a look", [one.seconds for one in looks], alone),
        milliseconds("processor, the service", [one.own_cpu for one in looks]),
        milliseconds("processor, its commands", [one.children_cpu for one in looks]),
        *rpcs_of(looks),
        Figure("database writes", span([len(one.writes) for one in looks]), "a look"),
    ]
    return [row.of(name) for row in rows]


def _squeue(profile: str) -> float:
    began = perf_counter()
    backend(profile).transport.run(QUEUE, timeout=QUEUE_SECONDS)
    return perf_counter() - began


def rpcs_of(looks: list[Look]) -> Iterator[Figure]:
    """A row for each kind: the fewest and the most RPCs of a look."""
    for kind in sorted({kind for one in looks for kind in one.rpcs}):
        counts = [one.rpcs[kind] for one in looks]
        yield Figure(kind.removeprefix("REQUEST_"), span(counts), "RPCs a look")


def span(counts: Sequence[int]) -> str:
    """One number where all are equal."""
    return f"{min(counts)}" if min(counts) == max(counts) else f"{min(counts)}-{max(counts)}"


def look(slurm: Cluster, profile: str) -> Look:
    """One, as a worker's tick does it. Raises BackendUnavailable."""
    before, began, (own, children) = rpcs(slurm), perf_counter(), _cpu()
    with _noted_writes() as writes:
        reconcile.poll_cluster(profile)
    seconds, (own_after, children_after) = perf_counter() - began, _cpu()
    return Look(seconds, own_after - own, children_after - children, rpcs(slurm) - before, writes)


def _cpu() -> tuple[float, float]:
    used = (getrusage(RUSAGE_SELF), getrusage(RUSAGE_CHILDREN))
    own, children = (one.ru_utime + one.ru_stime for one in used)
    return own, children


def rpcs(slurm: Cluster) -> Counter[str]:
    """What clients have asked of slurmctld since it began, by message type: sdiag(1)."""
    said = slurm.run("sdiag").stdout
    by_type = said.partition("by message type")[2].partition("by user")[0]
    counts = re.findall(r"^\s*(\w+)\s*\(\s*\d+\)\s*count:(\d+)", by_type, re.MULTILINE)
    return Counter({kind: int(count) for kind, count in counts if not NOT_ASKED.match(kind)})


@contextmanager
def _noted_writes() -> Iterator[list[str]]:
    statements: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if statement.lstrip().startswith(("INSERT", "UPDATE", "DELETE")):
            statements.append(statement)

    event.listen(engine(), "before_cursor_execute", note)
    try:
        yield statements
    finally:
        event.remove(engine(), "before_cursor_execute", note)
