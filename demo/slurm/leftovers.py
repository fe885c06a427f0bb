"""Processes of jobs that outlive Slurm's daemons, known by the environment that they were given."""

from pathlib import Path

import psutil

from demo.slurm.daemons import end


def find_all(conf: Path) -> list[psutil.Process]:
    """slurmstepds and the processes of jobs of the cluster with this slurm.conf."""
    return [process for process in psutil.process_iter() if _belongs(process, conf)]


def _belongs(process: psutil.Process, conf: Path) -> bool:
    """A client has SLURM_CONF as well: it is neither a job nor a slurmstepd."""
    try:
        if process.status() == psutil.STATUS_ZOMBIE:
            return False
        # Not psutil's environ(): that ends where slurmstepd has blanked its own to show a title in its place.
        environment = Path(f"/proc/{process.pid}/environ").read_bytes().split(b"\0")
        job = process.name() == "slurmstepd" or any(word.startswith(b"SLURM_JOB_ID=") for word in environment)
    except (OSError, psutil.Error):
        return False
    return job and f"SLURM_CONF={conf}".encode() in environment


def end_all(conf: Path) -> None:
    """Kill them until none is left."""
    while found := find_all(conf):
        end(found)
