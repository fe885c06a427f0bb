"""`python -m bench.slurm [--quick]`: starts a Slurm of its own, measures in one run, and prints tables.

Times are medians. Each stands beside what the same takes without the service, and RATIO is the two
divided: on a machine with other work the times grow, and their ratio hardly.
"""

import argparse
import os
import signal
import sys
from dataclasses import dataclass

from rich.console import Console

from bench.slurm import crowd, looks, place, submission, tail
from bench.slurm.figures import Figure, Progress, table
from bench.slurm.place import Place
from bench.slurm.waiting import Waiting
from demo.slurm.daemons import ClusterError
from demo.slurm.install import NotInstalled
from worker.backends.access import ssh
from worker.telemetry import logging

console = Console(highlight=False)


@dataclass(frozen=True)
class Size:
    repetitions: int
    """Of submissions and of reading a log."""
    jobs: tuple[int, ...]
    """That wait, ascending."""
    crowded_jobs: int
    """Of `jobs`: where clients ask, too."""
    crowds: tuple[int, ...]
    """Clients."""
    log_bytes: int = 5_000_000_000


WHOLE = Size(repetitions=30, jobs=(100, 1000, 5000), crowded_jobs=1000, crowds=(0, 50, 500))
QUICK = Size(repetitions=5, jobs=(100, 500), crowded_jobs=500, crowds=(0, 10, 50))


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.slurm")
    parser.add_argument("--quick", action="store_true", help="fewer jobs and repetitions: two minutes")
    size = QUICK if parser.parse_args().quick else WHOLE
    _set_environment()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # daemons outlive who is killed
    try:
        with console.status("Starting Slurm") as status, place.opened(_silent) as here:
            measured = _measure(here, size, lambda doing: status.update(doing))
    except (NotInstalled, ClusterError) as error:
        console.print(str(error), style="red", markup=False)
        return 1
    for title, figures in measured.items():
        console.print(table(title, figures), "")
    return 0


def _silent(_: str) -> None:
    """Slurm starts in seconds."""


def _set_environment() -> None:
    """What is set for another service is not for these; they say nothing unless something is wrong."""
    for name in list(os.environ):
        if name.startswith(("SFT_", "OTEL_")) or name in ("DATABASE_URL", "REDIS_URL"):
            del os.environ[name]
    os.environ["SFT_LOG_LEVEL"] = "WARNING"
    logging.configure()


def _measure(here: Place, size: Size, progress: Progress) -> dict[str, list[Figure]]:
    data_dir = here.use("watching")
    submitted = submission.measure(here, size.repetitions, progress)
    waiting, looked, crowded = Waiting(here), [], []
    for number in size.jobs:
        waiting.grow(number, progress)
        looked += looks.measure(here, waiting, progress)
        if number == size.crowded_jobs:
            crowded = crowd.measure(here, waiting, data_dir, size.crowds, progress)
    read = tail.measure(here, waiting, data_dir, size.log_bytes, size.repetitions, progress)
    ssh.disconnect()
    return {
        "Submission": submitted,
        "A look at jobs that wait": looked,
        f"A look at {size.crowded_jobs:,} jobs while clients ask": crowded,
        f"The end of a log of {size.log_bytes / 1e9:g} GB": read,
    }


if __name__ == "__main__":
    sys.exit(main())
