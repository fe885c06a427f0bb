"""`python -m bench.slurm [--quick]`: start a Slurm, measure the service on it, and print tables.

Times are medians. RATIO is a time divided by that of the same operation without the service: on a
busy machine the times grow, but their ratio hardly changes.
"""

import argparse
import os
import signal
import sys
from dataclasses import dataclass

from rich.console import Console

from bench.slurm import concurrent_clients, polls, submission, tail, testbed
from bench.slurm.pending_jobs import PendingJobs
from bench.slurm.results import Progress, Result, table
from bench.slurm.testbed import Testbed
from demo.slurm.daemons import ClusterError
from demo.slurm.install import NotInstalled
from worker.backends.access import ssh
from worker.telemetry import logging

console = Console(highlight=False)


@dataclass(frozen=True)
class Size:
    repetitions: int
    """Repetitions of submissions and of reading a log."""
    jobs: tuple[int, ...]
    """Numbers of pending jobs, ascending."""
    jobs_with_clients: int
    """The number of `jobs` at which clients send requests, too."""
    clients: tuple[int, ...]
    """Numbers of clients."""
    log_bytes: int = 5_000_000_000


FULL = Size(repetitions=30, jobs=(100, 1000, 5000), jobs_with_clients=1000, clients=(0, 50, 500))
QUICK = Size(repetitions=5, jobs=(100, 500), jobs_with_clients=500, clients=(0, 10, 50))


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.slurm")
    parser.add_argument("--quick", action="store_true", help="fewer jobs and repetitions: two minutes")
    size = QUICK if parser.parse_args().quick else FULL
    _set_environment()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # daemons survive a killed process
    try:
        with console.status("Starting Slurm") as status, testbed.opened(_silent) as here:
            measured = _measure(here, size, lambda doing: status.update(doing))
    except (NotInstalled, ClusterError) as error:
        console.print(str(error), style="red", markup=False)
        return 1
    for title, figures in measured.items():
        console.print(table(title, figures), "")
    return 0


def _silent(_: str) -> None:
    """Show no progress: Slurm starts in seconds."""


def _set_environment() -> None:
    """Remove the settings of another service, and log only warnings."""
    for name in list(os.environ):
        if name.startswith(("SFT_", "OTEL_")) or name in ("DATABASE_URL", "REDIS_URL"):
            del os.environ[name]
    os.environ["SFT_LOG_LEVEL"] = "WARNING"
    logging.configure()


def _measure(here: Testbed, size: Size, progress: Progress) -> dict[str, list[Result]]:
    data_dir = here.use("watching")
    submitted = submission.measure(here, size.repetitions, progress)
    pending, polled, with_clients = PendingJobs(here), [], []
    for number in size.jobs:
        pending.grow(number, progress)
        polled += polls.measure(here, pending, progress)
        if number == size.jobs_with_clients:
            with_clients = concurrent_clients.measure(here, pending, data_dir, size.clients, progress)
    read = tail.measure(here, pending, data_dir, size.log_bytes, size.repetitions, progress)
    ssh.disconnect()
    return {
        "Submission": submitted,
        "Poll of pending jobs": polled,
        f"Poll of {size.jobs_with_clients:,} jobs while clients send requests": with_clients,
        f"The end of a log of {size.log_bytes / 1e9:g} GB": read,
    }


if __name__ == "__main__":
    sys.exit(main())
